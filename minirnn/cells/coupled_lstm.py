"""The LSTM with one gate to forget and to write (CIFG)."""

from minirnn.cells import cell, dropout, sigmoid, tanh


@cell
def coupled_lstm(f, g, o, /, h, c):
    """Greff et al. 2015, "LSTM: A Search Space Odyssey", variant CIFG."""
    g = dropout(tanh(g))
    c = g + sigmoid(f) * (c - g)
    return sigmoid(o) * tanh(c), c
