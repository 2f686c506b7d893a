"""The LSTM whose gates see the cell state."""

from minirnn.cells import cell, dropout, sigmoid, tanh


@cell
def peephole_lstm(i, f, g, o, /, h, c, *, p_i=0, p_f=0, p_o=0):
    """Gers, Schraudolph & Schmidhuber 2002, "Learning Precise Timing with LSTM Recurrent Networks"."""
    c_new = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * dropout(tanh(g))
    return sigmoid(o + p_o * c_new) * tanh(c_new), c_new
