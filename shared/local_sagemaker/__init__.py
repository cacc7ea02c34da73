"""A local SageMaker: the SageMaker API on loopback, with real processes behind it. See README.md."""
