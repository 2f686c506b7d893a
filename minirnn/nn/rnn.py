"""PyTorch's recurrent layers: RNN, LSTM and GRU."""

from __future__ import annotations

from minirnn.autograd.tensor import DType
from minirnn.nn.cells import Nonlinearity, rnn_cell
from minirnn.nn.recurrent import Recurrent
from minirnn.validation import check_int


class RNN(Recurrent):
    """Simple recurrent layers (Elman 1990): h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or relu.

    ``y, h_n = rnn(x, h_0, lengths=lengths)``: x [T, N, I], y [T, N, D H], h_0 and h_n [L D, N, H], lengths [N]; D is 2
    with ``bidirectional``, else 1. See :meth:`forward` for single sequences, tokens and lengths.

    Args:
        input_size, hidden_size: number of features I of the input, and of units H.
        num_layers: number of layers L; each above the first reads the outputs of the one below.
        nonlinearity: "tanh" or "relu".
        bias: if False, the layers have no bias_ih and bias_hh.
        batch_first: if True, x and y are [N, T, ...] instead of [T, N, ...]; states are not changed by this.
        dropout: probability of dropout on the outputs of all layers but the last, in training.
        bidirectional: if True, a second direction runs from each sequence's last step to its first.
        dtype: of the parameters, float32 or float64.

    Parameters of layer k (``_reverse`` at the end for the second direction), from U(-1/sqrt(H), 1/sqrt(H)):
    ``weight_ih_l{k}`` [H, I] (above the first layer [H, D H]), ``weight_hh_l{k}`` [H, H], ``bias_ih_l{k}``,
    ``bias_hh_l{k}`` [H].
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Nonlinearity = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: DType = "float32",
    ) -> None:
        cell, self.nonlinearity = rnn_cell("RNN", nonlinearity), nonlinearity
        super().__init__(
            cell, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype
        )


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    i_t, f_t, o_t = sigmoid(W_i* x_t + b_i* + W_h* h_{t-1} + b_h*), g_t = tanh(W_ig x_t + b_ig + W_hg h_{t-1} + b_hg),
    c_t = f_t * c_{t-1} + i_t * g_t, h_t = o_t * tanh(c_t).

    ``y, (h_n, c_n) = lstm(x, (h_0, c_0), lengths=lengths)``: x [T, N, I], y [T, N, D H], h_0, c_0, h_n and c_n
    [L D, N, H], lengths [N]; D is 2 with ``bidirectional``, else 1. With ``proj_size`` P, h (in y, h_0, h_n and the
    shapes of weights) has P features instead of H. See :meth:`forward` for single sequences, tokens and lengths.

    Args:
        input_size, hidden_size: number of features I of the input, and of units H.
        num_layers: number of layers L; each above the first reads the outputs of the one below.
        bias: if False, the layers have no bias_ih and bias_hh.
        batch_first: if True, x and y are [N, T, ...] instead of [T, N, ...]; states are not changed by this.
        dropout: probability of dropout on the outputs of all layers but the last, in training.
        bidirectional: if True, a second direction runs from each sequence's last step to its first.
        proj_size: P below H; if > 0, h_t = W_hr (o_t * tanh(c_t)), of P features (Sak, Senior & Beaufays 2014).
        dtype: of the parameters, float32 or float64.

    Parameters of layer k (``_reverse`` at the end for the second direction), gates in the order i, f, g, o:
    ``weight_ih_l{k}`` [4 H, I] (above the first layer [4 H, D H]), ``weight_hh_l{k}`` [4 H, H], ``bias_ih_l{k}`` and
    ``bias_hh_l{k}`` [4 H], and ``weight_hr_l{k}`` [P, H], drawn from U(-1/sqrt(H), 1/sqrt(H)).

    >>> import minirnn as mr
    >>> lstm = mr.nn.LSTM(3, 5, bidirectional=True)
    >>> y, (h_n, c_n) = lstm(mr.zeros(7, 2, 3), lengths=[7, 4])
    >>> y.shape, h_n.shape
    ((7, 2, 10), (2, 2, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        dtype: DType = "float32",
    ) -> None:
        largest = check_int("LSTM: hidden_size", hidden_size) - 1
        self.proj_size = check_int("LSTM: proj_size", proj_size, 0, largest)
        super().__init__(
            "lstm", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype
        )


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014), with the reset gate after the product as in cuDNN.

    r_t, z_t = sigmoid(W_i* x_t + b_i* + W_h* h_{t-1} + b_h*),
    n_t = tanh(W_in x_t + b_in + r_t * (W_hn h_{t-1} + b_hn)), h_t = (1 - z_t) * n_t + z_t * h_{t-1}.

    ``y, h_n = gru(x, h_0, lengths=lengths)``: x [T, N, I], y [T, N, D H], h_0 and h_n [L D, N, H], lengths [N]; D is 2
    with ``bidirectional``, else 1. See :meth:`forward` for single sequences, tokens and lengths.

    Args:
        input_size, hidden_size: number of features I of the input, and of units H.
        num_layers: number of layers L; each above the first reads the outputs of the one below.
        bias: if False, the layers have no bias_ih and bias_hh.
        batch_first: if True, x and y are [N, T, ...] instead of [T, N, ...]; states are not changed by this.
        dropout: probability of dropout on the outputs of all layers but the last, in training.
        bidirectional: if True, a second direction runs from each sequence's last step to its first.
        dtype: of the parameters, float32 or float64.

    Parameters of layer k (``_reverse`` at the end for the second direction), gates in the order r, z, n:
    ``weight_ih_l{k}`` [3 H, I] (above the first layer [3 H, D H]), ``weight_hh_l{k}`` [3 H, H], ``bias_ih_l{k}`` and
    ``bias_hh_l{k}`` [3 H], drawn from U(-1/sqrt(H), 1/sqrt(H)).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: DType = "float32",
    ) -> None:
        super().__init__(
            "gru", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype
        )
