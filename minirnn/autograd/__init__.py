"""FLOOR 2: the tape engine, the primitive operations, and whole recurrent layers as one operation."""

from minirnn.autograd.gradcheck import gradcheck
from minirnn.autograd.tape import detect_anomaly, no_grad
from minirnn.autograd.tensor import Tensor, tensor

__all__ = ["Tensor", "detect_anomaly", "gradcheck", "no_grad", "tensor"]
