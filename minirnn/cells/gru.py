"""The gated recurrent unit with its reset gate after the product, as cuDNN and PyTorch have it."""

from minirnn.cells import cell, dropout, sigmoid, tanh


@cell
def gru(r, z, n_x, n_h, /, h):
    """Cho et al. 2014, section 2.3, in the form of Chung et al. 2014 that needs one product a step."""
    n = dropout(tanh(n_x + sigmoid(r) * n_h))
    return n + sigmoid(z) * (h - n)
