"""The simple recurrent network."""

from minirnn.cells._cell import cell
from minirnn.cells._vocabulary import dropout, tanh


@cell
def rnn(a, /, h):
    """Elman 1990, "Finding Structure in Time"."""
    return dropout(tanh(a))
