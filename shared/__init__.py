"""What all three labs share: the workshop object, the local SageMaker, the embedded models."""
