"""Long short-term memory."""

from minirnn.cells._cell import cell
from minirnn.cells._vocabulary import dropout, sigmoid, tanh


@cell
def lstm(i, f, g, o, /, h, c):
    """Hochreiter & Schmidhuber 1997; the forget gate f: Gers, Schmidhuber & Cummins 2000, "Learning to Forget"."""
    c = sigmoid(f) * c + sigmoid(i) * dropout(tanh(g))
    return sigmoid(o) * tanh(c), c
