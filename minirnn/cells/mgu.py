"""The minimal gated unit: one gate that both resets and updates, applied after the product as in :mod:`.gru`."""

from minirnn.cells import cell, dropout, sigmoid, tanh


@cell
def mgu(f, n_x, n_h, /, h):
    """Zhou et al. 2016, "Minimal Gated Unit for Recurrent Neural Networks"."""
    f = sigmoid(f)
    return h + f * (dropout(tanh(n_x + f * n_h)) - h)
