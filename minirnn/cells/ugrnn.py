"""The update gate RNN: one gate between the old state and the new value."""

from minirnn.cells import cell, dropout, sigmoid, tanh


@cell
def ugrnn(c, g, /, h):
    """Collins, Sohl-Dickstein & Sussillo 2017, "Capacity and Trainability in Recurrent Neural Networks"."""
    c = dropout(tanh(c))
    return c + sigmoid(g) * (h - c)
