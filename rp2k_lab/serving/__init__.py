"""A model to take away: ONNX with a dynamic batch, a recognizer without MindSpore, a model of MLflow.

`predict.py` and `model_code.py` are copied into every export as they are, so they import nothing of the package.
"""
