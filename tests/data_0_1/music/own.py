import minirnn as mr
from minirnn.cells import sigmoid, tanh


@mr.cell
def peephole(i, f, g, o, /, h, c, *, p_i=0, p_f=0):
    c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
    return sigmoid(o) * tanh(c), c
