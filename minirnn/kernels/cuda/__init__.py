"""The kernel contract on a card, through Numba."""

from minirnn.kernels.cuda.device import asarray, empty, to_numpy, zeros
