"""The gated recurrent unit as printed: the reset gate before the product (Keras: ``reset_after=False``)."""

from minirnn.cells import cell, dropout, product, sigmoid, tanh


@cell
def gru_reset_before(r, z, n_x, /, h):
    """Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder", section 2.3."""
    n = dropout(tanh(n_x + product(sigmoid(r) * h)))
    return n + sigmoid(z) * (h - n)
