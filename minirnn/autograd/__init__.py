"""Tensors, the tape, the operations, recurrent layers over whole sequences, and gradient checks.

To learn how it works, read :mod:`.tape`, :mod:`.tensor` and one file of :mod:`.ops`.
"""

from minirnn.autograd import ops
from minirnn.autograd.gradcheck import gradcheck
from minirnn.autograd.operation import operation
from minirnn.autograd.ops import *
from minirnn.autograd.recompute import recompute
from minirnn.autograd.tape import detect_anomaly, no_grad
from minirnn.autograd.tensor import Tensor, ones, randn, tensor, zeros

__all__ = ["Tensor", "detect_anomaly", "gradcheck", "no_grad", "ones", "operation", "randn", "recompute", "tensor"]
__all__ += ["zeros", *ops.__all__]
