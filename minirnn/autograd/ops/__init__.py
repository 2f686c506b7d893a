"""The operations. Each is declared once: what it computes, and a function that returns the gradients of its inputs.

Inputs that do not fit raise ShapeError, DTypeError, DeviceError, IndexRangeError or OptionError, with the operation's
name. In the sources ``K`` is always the kernels of the inputs' device, ``x`` and ``y`` are tensors, and ``g`` is the
gradient of the result. What a module lists in its ``__all__`` is a function of :mod:`minirnn` as well.
"""

from minirnn.autograd.ops import elementwise, linalg, reductions, shapes
from minirnn.autograd.ops.elementwise import *
from minirnn.autograd.ops.elementwise import add, clone, compare, divide, multiply, negative, power, subtract
from minirnn.autograd.ops.linalg import *
from minirnn.autograd.ops.linalg import linear, linear_operands
from minirnn.autograd.ops.operands import as_rows, as_tensor, cast, check_floating, move
from minirnn.autograd.ops.reductions import *
from minirnn.autograd.ops.rows import all_below, as_index, check_range, embedding, scatter_rows, take_rows
from minirnn.autograd.ops.shapes import *
from minirnn.autograd.ops.shapes import flatten, index
from minirnn.autograd.tape import needs_gradient, same_device

__all__ = elementwise.__all__ + linalg.__all__ + reductions.__all__ + shapes.__all__
