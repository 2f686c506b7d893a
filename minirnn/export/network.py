"""What a model computes in evaluation, as plain NumPy data: all that an exporter reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any, Literal

import numpy as np

from minirnn.autograd.tensor import Tensor
from minirnn.errors import OptionError
from minirnn.kernels.equations import Equations
from minirnn.models import CharLM, EncoderDecoder, ManyToMany, ManyToOne, OneToMany, OneToOne
from minirnn.models.body import Body
from minirnn.nn import Attention, Recurrent
from minirnn.nn import Linear as LinearModule
from minirnn.nn.unrolled import Merge
from minirnn.tasks.tagger import TaggerModel

Kind = Literal["char_lm", "many_to_many", "many_to_one", "one_to_many", "one_to_one", "encoder_decoder", "tagger"]


@dataclass(frozen=True)
class Linear:
    """y = x W^T + b: ``weight`` [O, I], ``bias`` [O] or None."""

    weight: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True)
class Layer:
    """One recurrent layer in one direction, with the parameters of :class:`minirnn.nn.Recurrent`.

    Attributes:
        equations: of the cell, resolved for evaluation; their leaf "zoneout" has the value ``zoneout``.
        weight_ih: [G H, I]. weight_hh: [R H, H], None for a cell without recurrent parts.
        bias_ih, bias_hh: [G H] and [R H], None where the layer has no biases (or no recurrent parts).
        products: [H, H] of each product inside the step. vectors: [H] each, by name.
        weight_hr: [P, H] of an LSTM with a projection.
        reverse: from each sequence's last step to its first.
    """

    equations: Equations
    hidden_size: int
    weight_ih: np.ndarray
    weight_hh: np.ndarray | None
    bias_ih: np.ndarray | None
    bias_hh: np.ndarray | None
    products: list[np.ndarray]
    vectors: dict[str, np.ndarray]
    weight_hr: np.ndarray | None
    zoneout: float
    reverse: bool


@dataclass(frozen=True)
class Layers:
    """Recurrent layers, one above the other.

    Attributes:
        layers: [L][D], from the bottom up, each with its one or two directions.
        merge: how the top layer's two directions become one; between layers they are concatenated.
        residual: each layer above the first adds its input to its output.
        embedding: [V, E] the rows that stand for tokens, None where inputs are vectors.
    """

    layers: list[list[Layer]]
    merge: Merge = "concat"
    residual: bool = False
    embedding: np.ndarray | None = None

    @property
    def bidirectional(self) -> bool:
        return len(self.layers[0]) > 1

    @property
    def input_size(self) -> int:
        """Size of the vectors that the first layer reads."""
        return self.layers[0][0].weight_ih.shape[1]


@dataclass(frozen=True)
class Network:
    """A model as data.

    Attributes:
        kind: which of the classes of :mod:`minirnn.models` it is.
        layers: by name: "rnn"; of an encoder-decoder "encoder" and "decoder"; of a tagger also "spelling".
        linear: by name: "head", and what the model has besides ("start", "combine", "bridge0", ..., "layer0", ...).
        attention: "additive", "dot" (in an encoder-decoder) or "pooling" (of a classifier), None where there is none;
            its matrices are in ``linear`` as "query", "memory", "score".
        embedding: [V, E] words of a tagger, whose other tokens are embedded by their own layers.
        options: arguments of the model that are needed besides: "pooling", "activation", "condition", "end".
        task: what the task's ``config()`` says, with the vocabulary; None for a model without a task.
    """

    kind: Kind
    layers: dict[str, Layers] = field(default_factory=dict)
    linear: dict[str, Linear] = field(default_factory=dict)
    attention: str | None = None
    embedding: np.ndarray | None = None
    options: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] | None = None

    @property
    def num_parameters(self) -> int:
        """Numbers in all weights."""
        return sum(array.size for array in arrays(self).values())


def arrays(part: Any, name: str = "") -> dict[str, np.ndarray]:
    """Return every array below ``part`` of a network, by its path: ``layers.rnn.0.0.weight_ih``."""
    if isinstance(part, np.ndarray):
        return {name: part}
    if isinstance(part, (Network, Layers, Layer, Linear)):
        part = {key: value for key, value in vars(part).items() if key not in ("task", "options", "equations")}
    if isinstance(part, dict):
        items = part.items()
    elif isinstance(part, list):
        items = enumerate(part)  # type: ignore[assignment]
    else:
        return {}
    return {key: array for below, value in items for key, array in arrays(value, f"{name}.{below}".strip(".")).items()}


@singledispatch
def describe(model: Any) -> Network:
    """Return a model of :mod:`minirnn.models` as plain data.

    Raises:
        OptionError: it is another module, or has a module as cell.
    """
    raise OptionError(f"export: expected a trained task or a model of minirnn.models, got {type(model).__name__}")


def _array(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.detach().numpy()


def _linear(module: Any) -> Linear:
    return Linear(module.weight.detach().numpy(), _array(module.bias))


def _layers(body: Body) -> Layers:
    rnn, one_hot = body.layers, body.takes_tokens and body.embedding is None
    rows = [[_layer(rnn, k, d) for d in range(1 + rnn.bidirectional)] for k in range(rnn.num_layers)]
    table = (
        np.eye(body.input_size, dtype=rnn.dtype)
        if one_hot
        else _array(body.embedding.weight if body.embedding else None)
    )
    return Layers(rows, body.merge, rnn.residual, table)


def _layer(rnn: Recurrent, layer: int, direction: int) -> Layer:
    def get(name: str) -> Any:
        return _array(getattr(rnn, f"{name}_l{layer}{'_reverse' * direction}", None))

    cell = rnn.cell
    return Layer(
        cell.equations.resolve(training=False, zoneout=rnn.zoneout > 0),
        rnn.hidden_sizes[layer],
        get("weight_ih"),
        get("weight_hh"),
        get("bias_ih"),
        get("bias_hh"),
        [get(f"weight_product{number}") for number in range(cell.equations.products)],
        {name: get(name) for name in cell.vectors},
        get("weight_hr"),
        rnn.zoneout,
        bool(direction),
    )


def _attention(module: Attention) -> dict[str, Linear]:
    return {name: _linear(getattr(module, name)) for name in ("query", "memory", "score") if hasattr(module, name)}


@describe.register
def _(model: CharLM) -> Network:
    return Network("char_lm", {"rnn": _layers(model)}, {"head": _linear(model.head)})


@describe.register
def _(model: ManyToMany) -> Network:
    return Network("many_to_many", {"rnn": _layers(model.body)}, {"head": _linear(model.head)})


@describe.register
def _(model: ManyToOne) -> Network:
    linear, pooling = {"head": _linear(model.head)}, model.pooling
    kind = "last" if pooling is None else pooling.kind
    if pooling is not None and kind == "attention":
        score = Linear(pooling.score.detach().numpy()[None], None)
        linear |= {"memory": Linear(pooling.memory.weight.detach().numpy(), _array(pooling.bias)), "score": score}
    attention = "pooling" if kind == "attention" else None
    return Network("many_to_one", {"rnn": _layers(model.body)}, linear, attention, options={"pooling": kind})


@describe.register
def _(model: OneToMany) -> Network:
    linear = {"start": _linear(model.start), "head": _linear(model.head)}
    options = {"activation": model.activation, "condition": model.condition, "end": model.end}
    return Network("one_to_many", {"rnn": _layers(model.body)}, linear, options=options)


@describe.register
def _(model: OneToOne) -> Network:
    linear = [module for module in model.layers if isinstance(module, LinearModule)]
    names = [*(f"layer{number}" for number in range(len(linear) - 1)), "head"]
    options = {"activation": model.config["activation"]}
    return Network("one_to_one", {}, {n: _linear(m) for n, m in zip(names, linear, strict=True)}, options=options)


@describe.register
def _(model: EncoderDecoder) -> Network:
    layers = {"encoder": _layers(model.encoder), "decoder": _layers(model.decoder)}
    linear = {"head": _linear(model.head)} | {f"bridge{n}": _linear(m) for n, m in enumerate(model.bridge)}
    if model.attention is None:
        return Network("encoder_decoder", layers, linear)
    linear |= {"combine": _linear(model.combine), **_attention(model.attention)}
    return Network("encoder_decoder", layers, linear, model.attention.kind)


@describe.register
def _(model: TaggerModel) -> Network:
    layers = {"spelling": _layers(model.spelling), "rnn": _layers(model.tagging.body)}
    return Network(
        "tagger", layers, {"head": _linear(model.tagging.head)}, embedding=model.embedding.weight.detach().numpy()
    )
