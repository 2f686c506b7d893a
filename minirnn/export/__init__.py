"""A trained model as a program of its own, in NumPy, C or ONNX."""
