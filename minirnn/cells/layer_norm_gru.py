"""The GRU with layer normalisation of the input part and the recurrent part of each gate."""

from minirnn.cells import cell, dropout, layer_norm, sigmoid, tanh


@cell
def layer_norm_gru(
    r_x, r_h, z_x, z_h, n_x, n_h, /, h, *, w_r=1, w_z=1, w_n=1, v_r=1, v_z=1, v_n=1, b_r=0, b_z=0, b_n=0
):
    """Ba, Kiros & Hinton 2016, "Layer Normalization", supplement, in the GRU that resets after the product."""
    r = sigmoid(layer_norm(r_x, w_r, b_r) + layer_norm(r_h, v_r))
    z = sigmoid(layer_norm(z_x, w_z, b_z) + layer_norm(z_h, v_z))
    n = dropout(tanh(layer_norm(n_x, w_n, b_n) + r * layer_norm(n_h, v_n)))
    return n + z * (h - n)
