"""The simple recurrent network."""

from minirnn.cells import cell, dropout, tanh


@cell
def rnn(a, /, h):
    """Elman 1990, "Finding Structure in Time"."""
    return dropout(tanh(a))
