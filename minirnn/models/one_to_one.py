"""OneToOne: one vector to one vector, the feed-forward network."""

from __future__ import annotations

from minirnn.autograd.tensor import DType, Tensor
from minirnn.models.body import Model, TensorLike
from minirnn.nn.layers import Dropout, Linear, ReLU, Sigmoid, Tanh
from minirnn.nn.module import Module, Sequential
from minirnn.validation import check_choice, check_int

ACTIVATIONS = {"relu": ReLU, "tanh": Tanh, "sigmoid": Sigmoid}


class OneToOne(Model):
    """One vector to one vector, without a state: the feed-forward network, y = W_2 f(W_1 x + b_1) + b_2.

    Args:
        input_size, hidden_size, output_size: sizes of x, of each hidden layer and of y.
        num_layers: hidden layers; 0 for a linear model.
        activation: f of the hidden layers: "relu", "tanh" or "sigmoid".
        dropout: probability, in training, on the outputs of every hidden layer.
        dtype: of the parameters, float32 or float64.

    >>> import minirnn as mr
    >>> mr.models.OneToOne(4, 16, 3)(mr.zeros(5, 4)).shape
    (5, 3)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int = 1,
        activation: str = "relu",
        dropout: float = 0.0,
        dtype: DType = "float32",
    ) -> None:
        function = ACTIVATIONS[check_choice("OneToOne: activation", activation, ACTIVATIONS)]
        layers: list[Module] = []
        for _ in range(check_int("OneToOne: num_layers", num_layers, 0)):
            layers += [Linear(input_size, hidden_size, dtype=dtype), function(), Dropout(dropout)]
            input_size = hidden_size
        self.layers = Sequential(*layers, Linear(input_size, output_size, dtype=dtype))

    def forward(self, x: TensorLike) -> Tensor:
        """Map ``x`` [..., input_size] to y [..., output_size]."""
        return self.layers(x)
