"""The simple recurrent network with rectified units."""

from minirnn.cells import cell, dropout, relu


@cell
def rnn_relu(a, /, h):
    """Le, Jaitly & Hinton 2015, "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units"."""
    return dropout(relu(a))
