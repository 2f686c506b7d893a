"""Long short-term memory."""

from minirnn.cells import cell, dropout, sigmoid, tanh


@cell
def lstm(i, f, g, o, /, h, c):
    """Hochreiter & Schmidhuber 1997; the forget gate f: Gers, Schmidhuber & Cummins 2000, "Learning to Forget"."""
    c = sigmoid(f) * c + sigmoid(i) * dropout(tanh(g))
    return sigmoid(o) * tanh(c), c
