"""The minimal GRU, whose gates see the input alone: no recurrent weights."""

from minirnn.cells import cell, dropout, sigmoid


@cell
def min_gru(z_x, n_x, /, h):
    """Feng et al. 2024, "Were RNNs All We Needed?", section 3.1."""
    return h + sigmoid(z_x) * (dropout(n_x) - h)
