"""What runs inside a hosting container: GET /ping and POST /invocations over code/inference.py.

It follows the semantics of the Hugging Face inference toolkit for SageMaker. It imports the standard library, uvicorn
and the model's own code, and nothing else of this package's neighbours: `python inference_server SOCKET` starts it from
any folder.
"""
