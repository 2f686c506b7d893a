"""Drawings of nets as Mermaid, which GitHub and many editors show, or as DOT for Graphviz."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from minirnn.errors import OptionError
from minirnn.validation import check_choice, check_int

if TYPE_CHECKING:
    from minirnn.export.network import Layers, Linear, Network

_MAX_UNFOLD = 100
_MERMAID = {"&": "#amp;", "#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "\n": "<br/>"}


@dataclass(frozen=True)
class Edge:
    """An arrow: ``label`` is what flows and its shape; ``kind`` "data", "state" from step to step, or "feedback"."""

    start: str
    end: str
    label: str = ""
    kind: Literal["data", "state", "feedback"] = "data"


@dataclass
class Diagram:
    """A net as a graph.

    Attributes:
        nodes: label by id, a name of letters, digits and underscores. data: those that are inputs or outputs.
        edges: the arrows.
    """

    nodes: dict[str, str] = field(default_factory=dict)
    data: set[str] = field(default_factory=set)
    edges: list[Edge] = field(default_factory=list)

    def mermaid(self) -> str:
        """Return it as a flowchart of Mermaid."""
        arrows = {"data": "-->", "state": "==>", "feedback": "-.->"}
        lines = ["flowchart LR"]
        for id, label in self.nodes.items():
            text = "".join(_MERMAID.get(letter, letter) for letter in label)
            lines.append(f'    {id}(["{text}"])' if id in self.data else f'    {id}["{text}"]')
        for edge in self.edges:
            text = "".join(_MERMAID.get(letter, letter) for letter in edge.label)
            label = f'|"{text}"|' if text else ""
            lines.append(f"    {edge.start} {arrows[edge.kind]}{label} {edge.end}")
        return "\n".join(lines)

    def dot(self) -> str:
        """Return it in the DOT language; steps of time lie beside each other, layers above each other."""
        styles = {"data": "", "state": ", style=bold, constraint=false", "feedback": ", style=dashed, constraint=false"}
        lines = ["digraph net {", "    rankdir=BT;", "    node [shape=box];"]
        for id, label in self.nodes.items():
            lines.append(f"    {id} [label={_quoted(label)}{', shape=ellipse' if id in self.data else ''}];")
        for edge in self.edges:
            lines.append(f"    {edge.start} -> {edge.end} [label={_quoted(edge.label)}{styles[edge.kind]}];")
        return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


def draw(model: Any, unfold: int | None = None, to: str = "mermaid") -> str:
    """Return a drawing of a net as text: layers with their sizes, the shape of what flows on every arrow.

    Arrows of a state from step to step are thick, those of outputs that are read again dashed. Letters in shapes:
    T steps of N sequences, S those of a source, C characters of K different words.

    Args:
        model: a trained task, or a model of :mod:`minirnn.models`.
        unfold: draw so many time steps side by side, rather than one with arrows back to itself.
        to: "mermaid" or "dot".

    Raises:
        OptionError: ``model`` is something else, or has a module as cell; an option is out of range.

    >>> import minirnn as mr
    >>> print(mr.draw(mr.models.CharLM(65, 128, num_layers=1)))
    flowchart LR
        input(["tokens"])
        embedding["embedding 65 x 128"]
        rnn_l0["lstm, 128 units"]
        head["linear 128 to 65"]
        output(["output"])
        input -->|"[T, N]"| embedding
        rnn_l0 ==>|"h, c [N, 128]"| rnn_l0
        embedding -->|"[T, N, 128]"| rnn_l0
        rnn_l0 -->|"[T, N, 128]"| head
        head -->|"[T, N, 65]"| output
    """
    check_choice("draw: to", to, ("mermaid", "dot"))
    made = diagram(model, unfold)
    return made.dot() if to == "dot" else made.mermaid()


def diagram(model: Any, unfold: int | None = None) -> Diagram:
    """Return the graph that :func:`draw` writes."""
    from minirnn.export.network import describe
    from minirnn.tasks import Task

    if unfold is not None:
        check_int("draw: unfold", unfold, 1, _MAX_UNFOLD)
    try:
        network = describe(model.model if isinstance(model, Task) else model)
    except OptionError as error:
        raise OptionError(f"draw: {str(error).removeprefix('export: ')}") from None
    builder = _Builder(unfold)
    getattr(builder, network.kind)(network)
    return builder.made


@dataclass(frozen=True)
class _Time:
    """The steps that are drawn: the ends of their nodes' ids, and the letters of their dimensions."""

    steps: tuple[str, ...]
    letters: str

    def shape(self, *sizes: int) -> str:
        return f"[{', '.join([self.letters, *map(str, sizes)])}]"


class _Builder:
    """Makes the diagram of a network; a method for each kind of it."""

    def __init__(self, unfold: int | None) -> None:
        self.made, self.unfold = Diagram(), unfold
        self.time = self._time("T")

    def _time(self, letter: str) -> _Time:
        if self.unfold is None:
            return _Time(("",), f"{letter}, N")
        return _Time(tuple(f"_{t + 1}" for t in range(self.unfold)), "N")

    # ---------------------------------------------------------------------------------------------- parts

    def node(self, id: str, label: str, *below: tuple[str, str], data: bool = False) -> str:
        """A node, and an arrow from each of (node, shape) below it."""
        self.made.nodes[id] = label
        if data:
            self.made.data.add(id)
        self.made.edges += [Edge(start, id, shape) for start, shape in below]
        return id

    def each(
        self, id: str, label: str, time: _Time, *below: tuple[Sequence[str], str], data: bool = False
    ) -> list[str]:
        """As :meth:`node`, for every step."""
        return [
            self.node(
                id + step, label + f" {t + 1}" * bool(data and step), *((ids[t], s) for ids, s in below), data=data
            )
            for t, step in enumerate(time.steps)
        ]

    def linear(self, id: str, linear: Linear, time: _Time, below: Sequence[str], after: str = "") -> list[str]:
        """A linear layer at every step."""
        outputs, inputs = linear.weight.shape
        return self.each(id, f"linear {inputs} to {outputs}{after}", time, (below, time.shape(inputs)))

    def inputs(self, id: str, layers: Layers, time: _Time, label: str = "") -> list[str]:
        """What a body reads, at every step: tokens that are embedded, or vectors."""
        made = self.each(id, label or ("tokens" if layers.embedding is not None else "vectors"), time, data=True)
        return self.embedded("embedding" if id == "input" else f"{id}_embedding", layers, time, made)

    def embedded(self, id: str, layers: Layers, time: _Time, tokens: Sequence[str]) -> list[str]:
        if layers.embedding is None:
            return list(tokens)
        rows, size = layers.embedding.shape
        return self.each(id, f"embedding {rows} x {size}", time, (tokens, time.shape()))

    def body(self, id: str, layers: Layers, time: _Time, below: Sequence[str]) -> list[list[list[str]]]:
        """Recurrent layers: the nodes of every layer, direction and step."""
        size, nodes = layers.input_size, []
        for number, row in enumerate(layers.layers):
            directions = []
            for layer in row:
                name = f"{id}_l{number}{'_reverse' * layer.reverse}"
                label = f"{layer.equations.name}, {layer.hidden_size} units"
                label += (", backwards" if layer.reverse else ", forwards") * (len(row) > 1)
                label += ", plus its input" * (layers.residual and number > 0)
                ids = [f"{name}{step}" for step in time.steps]
                self.made.nodes |= dict.fromkeys(ids, label)
                states = f"{', '.join(layer.equations.states)} [N, {layer.hidden_size}]"
                order = ids[::-1] if layer.reverse else ids
                pairs = [(ids[0], ids[0])] if self._folded(time) else itertools.pairwise(order)
                self.made.edges += [Edge(start, end, states, "state") for start, end in pairs]
                self.made.edges += [Edge(start, end, time.shape(size)) for start, end in zip(below, ids, strict=True)]
                directions.append(ids)
            nodes.append(directions)
            if number + 1 < len(layers.layers):
                below, size = self.merged(f"{id}_l{number}", row, time, directions, "concat")
        return nodes

    def _folded(self, time: _Time) -> bool:
        return time.steps == ("",)

    def merged(
        self, id: str, row: Sequence[Any], time: _Time, directions: Sequence[Sequence[str]], merge: str
    ) -> tuple[Sequence[str], int]:
        """The outputs of a layer, of two directions merged: their nodes and their size."""
        size = _output_size(row[0])
        if len(directions) == 1:
            return directions[0], size
        made = self.each(f"{id}_{merge}", merge, time, *((ids, time.shape(size)) for ids in directions))
        return made, size * (2 if merge == "concat" else 1)

    def top(
        self, id: str, layers: Layers, time: _Time, nodes: Sequence[Sequence[Sequence[str]]]
    ) -> tuple[Sequence[str], int]:
        """The outputs of a body."""
        return self.merged(f"{id}_top", layers.layers[-1], time, nodes[-1], layers.merge)

    def final(self, id: str, layers: Layers, directions: Sequence[Sequence[str]]) -> tuple[str, int]:
        """One node for the last output of a layer, which of the second direction is that of the first step."""
        size = _output_size(layers.layers[-1][0])
        ends = [(ids[0 if number else -1], f"[N, {size}]") for number, ids in enumerate(directions)]
        label = "last output" if len(ends) == 1 else f"last outputs: {layers.merge}"
        return self.node(id, label, *ends), size * (2 if len(ends) == 2 and layers.merge == "concat" else 1)

    def single(self, id: str, linear: Linear, below: str, after: str = "") -> str:
        """A linear layer that is applied once."""
        outputs, inputs = linear.weight.shape
        return self.node(id, f"linear {inputs} to {outputs}{after}", (below, f"[N, {inputs}]"))

    def outputs(self, linear: Linear, below: Sequence[str], time: _Time) -> list[str]:
        """The head and the outputs, at every step."""
        head = self.linear("head", linear, time, below)
        return self.each("output", "output", time, (head, time.shape(len(linear.weight))), data=True)

    def feedback(self, outputs: Sequence[str], inputs: Sequence[str], label: str) -> None:
        """The output of a step is the input of the next."""
        pairs = [(outputs[0], inputs[0])] if self._folded(self.time) else zip(outputs, inputs[1:], strict=False)
        self.made.edges += [Edge(start, end, label, "feedback") for start, end in pairs]

    # ---------------------------------------------------------------------------------------------- kinds

    def many_to_many(self, network: Network) -> None:
        layers = network.layers["rnn"]
        nodes = self.body("rnn", layers, self.time, self.inputs("input", layers, self.time))
        self.outputs(network.linear["head"], self.top("rnn", layers, self.time, nodes)[0], self.time)

    char_lm = many_to_many

    def many_to_one(self, network: Network) -> None:
        layers, kind = network.layers["rnn"], network.options["pooling"]
        nodes = self.body("rnn", layers, self.time, self.inputs("input", layers, self.time))
        if kind == "last":
            pooled, _ = self.final("last", layers, nodes[-1])
        else:
            below, size = self.top("rnn", layers, self.time, nodes)
            label = "attention over the steps" if kind == "attention" else f"{kind} over the steps"
            pooled = self.node("pooling", label, *((id, self.time.shape(size)) for id in below))
        head = self.single("head", network.linear["head"], pooled)
        self.node("output", "output", (head, f"[N, {len(network.linear['head'].weight)}]"), data=True)

    def one_to_many(self, network: Network) -> None:
        layers, start = network.layers["rnn"], network.linear["start"]
        first = self.node("input", "first input", data=True)
        start_node = self.single("start", start, first, ", tanh")
        fed = self.inputs("fed_back", layers, self.time, "output of the step before")
        nodes = self.body("rnn", layers, self.time, fed)
        for (forwards,), (layer,) in zip(nodes, layers.layers, strict=True):
            self.made.edges.append(Edge(start_node, forwards[0], f"first h [N, {layer.hidden_size}]"))
        outputs = self.outputs(network.linear["head"], nodes[-1][0], self.time)
        size = len(network.linear["head"].weight)
        shape = self.time.shape() if layers.embedding is not None else self.time.shape(size)
        self.feedback(outputs, [f"fed_back{step}" for step in self.time.steps], shape)

    def one_to_one(self, network: Network) -> None:
        below, activation = self.node("input", "vector", data=True), network.options["activation"]
        for name, linear in network.linear.items():
            below = self.single(name, linear, below, f", {activation}" if name != "head" else "")
        self.node("output", "output", (below, f"[N, {len(network.linear['head'].weight)}]"), data=True)

    def encoder_decoder(self, network: Network) -> None:
        encoder, decoder, source = network.layers["encoder"], network.layers["decoder"], self._time("S")
        read = self.body("encoder", encoder, source, self.inputs("source", encoder, source, "source tokens"))
        previous = self.inputs("target", decoder, self.time, "target token of the step before")
        written = self.body("decoder", decoder, self.time, previous)
        for number, (above, below) in enumerate(zip(written, read, strict=True)):
            layer = encoder.layers[number][0]
            names = layer.equations.states
            states = f"{', '.join(names)} [N, {layer.hidden_size}]"
            ends, into = [ids[0 if reverse else -1] for reverse, ids in enumerate(below)], above[0][0]
            if len(ends) > 1:
                bridge = network.linear["bridge0"].weight
                label = f"linear {bridge.shape[1]} to {bridge.shape[0]} of {names[0]}" + " and of c" * ("c" in names)
                ends = [self.node(f"bridge_l{number}", label, *((end, states) for end in ends))]
            self.made.edges += [Edge(end, into, states, "state") for end in ends]
        top, size = self.top("decoder", decoder, self.time, written)
        if network.attention is not None:
            memory, width = self.top("encoder", encoder, source, read)
            attention = self.each(
                "attention", f"{network.attention} attention", self.time, (top, self.time.shape(size))
            )
            for node in attention:
                self.made.edges += [Edge(one, node, source.shape(width)) for one in memory]
            inputs, outputs = (attention, self.time.shape(width)), network.linear["combine"].weight
            label = f"linear {outputs.shape[1]} to {outputs.shape[0]}, tanh"
            top = self.each("combine", label, self.time, inputs, (top, self.time.shape(size)))
        made = self.outputs(network.linear["head"], top, self.time)
        self.feedback(made, [f"target{step}" for step in self.time.steps], self.time.shape())

    def tagger(self, network: Network) -> None:
        layers, spelling, table = network.layers["rnn"], network.layers["spelling"], network.embedding
        assert table is not None
        word = _Time(("",), "C, K")
        spelled = self.body("spelling", spelling, word, self.inputs("characters", spelling, word, "characters"))
        last, size = self.final("spelled", spelling, spelled[-1])
        words = self.each("input", "words", self.time, data=True)
        label = f"embedding {table.shape[0]} x {table.shape[1]}"
        embedded = self.each("embedding", label, self.time, (words, self.time.shape()))
        parts = (embedded, self.time.shape(table.shape[1])), ([last] * len(words), self.time.shape(size))
        joined = self.each("words_and_spellings", "concat", self.time, *parts)
        nodes = self.body("rnn", layers, self.time, joined)
        self.outputs(network.linear["head"], self.top("rnn", layers, self.time, nodes)[0], self.time)


def _output_size(layer: Any) -> int:
    return layer.hidden_size if layer.weight_hr is None else len(layer.weight_hr)
