"""minirnn: small, fast recurrent networks on NumPy and Numba.

>>> import minirnn as mr
>>> x = mr.tensor([1.0, 2.0], requires_grad=True)
>>> (x * x).sum().backward()
>>> x.grad
tensor([2., 4.])
"""

from minirnn import autograd, cells, errors, kernels, models, nn, optim, random
from minirnn.autograd import *
from minirnn.cells import cell
from minirnn.export import export
from minirnn.export.drawing import draw
from minirnn.importing import load_weights
from minirnn.kernels import get_num_threads, matmul_precision, set_num_threads
from minirnn.random import manual_seed
from minirnn.serialization import load, save

__version__ = "0.2.0"

__all__ = ["cell", "cells", "draw", "errors", "export", "get_num_threads", "kernels", "load", "load_weights"]
__all__ += ["manual_seed", "matmul_precision", "models", "nn", "optim", "random", "save", "set_num_threads"]
__all__ += autograd.__all__
