"""The LSTM with layer normalisation of each gate and of the cell state."""

from minirnn.cells import cell, dropout, layer_norm, sigmoid, tanh


@cell
def layer_norm_lstm(i, f, g, o, /, h, c, *, w_i=1, w_f=1, w_g=1, w_o=1, w_c=1, b_i=0, b_f=1, b_g=0, b_o=0, b_c=0):
    """Ba, Kiros & Hinton 2016, "Layer Normalization", as in TensorFlow's LayerNormBasicLSTMCell."""
    i, f, g, o = layer_norm(i, w_i, b_i), layer_norm(f, w_f, b_f), layer_norm(g, w_g, b_g), layer_norm(o, w_o, b_o)
    c = layer_norm(sigmoid(f) * c + sigmoid(i) * dropout(tanh(g)), w_c, b_c)
    return sigmoid(o) * tanh(c), c
