"""The simple recurrent network with rectified units."""

from minirnn.cells._cell import cell
from minirnn.cells._vocabulary import dropout, relu


@cell
def rnn_relu(a, /, h):
    """Le, Jaitly & Hinton 2015, "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units"."""
    return dropout(relu(a))
