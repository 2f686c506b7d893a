"""The sLSTM: exponential input gates, kept in range by a state m that holds their largest exponent so far."""

from minirnn.cells import cell, dropout, exp, maximum, sigmoid, softplus, tanh


@cell
def slstm(i, f, z, o, /, h, c, n, m):
    """Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory", section 2.2, one head, forget gate sigmoid(f)."""
    f = m - softplus(-f)  # m + log(sigmoid(f))
    m_new = maximum(f, i)
    i, f = exp(i - m_new), exp(f - m_new)
    c, n = f * c + i * dropout(tanh(z)), f * n + i
    return sigmoid(o) * c / n, c, n, m_new
