"""The project's Python environment: sets up .venv, generates the requirement files, starts JupyterLab.

`python -m shared.environment` needs nothing but a Python's standard library.
"""
