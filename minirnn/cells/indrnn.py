"""The independently recurrent network: each unit sees its own state alone, by one weight."""

from minirnn.cells import cell, dropout, maximum, minimum, relu


@cell
def indrnn(a_x, /, h, *, u=0.5):
    """Li et al. 2018, "Independently Recurrent Neural Network (IndRNN)"; |u| <= 1, so that no state grows like u^T."""
    return dropout(relu(a_x + maximum(minimum(u, 1), -1) * h))
