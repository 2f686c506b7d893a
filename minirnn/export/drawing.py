"""Drawings of nets as Mermaid, which GitHub and many editors show, or as DOT for Graphviz."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from minirnn.errors import OptionError
from minirnn.validation import check_choice, check_int

if TYPE_CHECKING:
    import numpy as np

    from minirnn.export.network import Layer, Layers, Linear, Network

Kind = Literal["data", "state", "feedback"]
_MAX_UNFOLD = 100
_MERMAID = {"&": "#amp;", "#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "\n": "<br/>"}


@dataclass(frozen=True)
class Edge:
    """An arrow: ``label`` is what flows and its shape; ``kind`` "data", "state" from step to step, or "feedback"."""

    start: str
    end: str
    label: str = ""
    kind: Kind = "data"


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
        embedding -->|"[T, N, 128]"| rnn_l0
        rnn_l0 ==>|"h, c [N, 128]"| rnn_l0
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

    @property
    def once(self) -> _Time:
        """No steps, but the sequences."""
        return _Time(("",), self.letters.rpartition(", ")[2])


@dataclass(frozen=True)
class _Values:
    """What flows: the node that gives it at every step, and its size, None for tokens."""

    time: _Time
    nodes: Sequence[str]
    size: int | None

    @property
    def shape(self) -> str:
        return f"[{self.time.letters}{'' if self.size is None else f', {self.size}'}]"

    def last(self, backwards: bool = False) -> _Values:
        return _Values(self.time.once, [self.nodes[0 if backwards else -1]], self.size)


class _Builder:
    """Makes the diagram of a network; a method for each kind of it."""

    def __init__(self, unfold: int | None) -> None:
        self.made, self.unfold = Diagram(), unfold
        self.time = self.times("T")

    def times(self, letter: str) -> _Time:
        if self.unfold is None:
            return _Time(("",), f"{letter}, N")
        return _Time(tuple(f"_{t + 1}" for t in range(self.unfold)), "N")

    # ---------------------------------------------------------------------------------------------- parts

    def add(self, id: str, label: str, time: _Time, size: int | None, *below: _Values, data: bool = False) -> _Values:
        """A node for every step, with arrows from those below it: of its step, or where numbers differ of all."""
        made = _Values(time, [id + step for step in time.steps], size)
        for t, (node, step) in enumerate(zip(made.nodes, time.steps, strict=True)):
            self.made.nodes[node] = label + step.replace("_", " ") * data
            for values in below:
                starts = values.nodes[t : t + 1] if len(values.nodes) == len(made.nodes) else values.nodes
                self.made.edges += [Edge(start, node, values.shape) for start in starts]
        self.made.data |= set(made.nodes) if data else set()
        return made

    def linear(self, id: str, linear: Linear, below: _Values, after: str = "") -> _Values:
        outputs, inputs = linear.weight.shape
        return self.add(id, f"linear {inputs} to {outputs}{after}", below.time, outputs, below)

    def outputs(self, network: Network, below: _Values) -> _Values:
        """The head and the outputs."""
        head = self.linear("head", network.linear["head"], below)
        return self.add("output", "output", head.time, head.size, head, data=True)

    def inputs(self, id: str, layers: Layers, time: _Time, label: str = "") -> _Values:
        """What a body reads: tokens that are embedded, or vectors."""
        if layers.embedding is None:
            return self.add(id, label or "vectors", time, layers.input_size, data=True)
        tokens = self.add(id, label or "tokens", time, None, data=True)
        return self.embedding("embedding" if id == "input" else f"{id}_embedding", layers.embedding, tokens)

    def embedding(self, id: str, table: np.ndarray, tokens: _Values) -> _Values:
        return self.add(id, f"embedding {table.shape[0]} x {table.shape[1]}", tokens.time, table.shape[1], tokens)

    def body(self, id: str, layers: Layers, below: _Values) -> list[list[_Values]]:
        """Recurrent layers: the outputs of every layer and direction."""
        rows: list[list[_Values]] = []
        for number, row in enumerate(layers.layers):
            below = self.merged(f"{id}_l{number - 1}", rows[-1], "concat") if number else below
            rows.append([])
            for layer in row:
                label = f"{layer.equations.name}, {layer.hidden_size} units"
                label += (", backwards" if layer.reverse else ", forwards") * (len(row) > 1)
                label += ", plus its input" * (layers.residual and number > 0)
                size = layer.hidden_size if layer.weight_hr is None else len(layer.weight_hr)
                made = self.add(f"{id}_l{number}{'_reverse' * layer.reverse}", label, below.time, size, below)
                order = made.nodes[::-1] if layer.reverse else made.nodes
                self.steps(below.time, order, order, _states(layer, below.time), "state")
                rows[-1].append(made)
        return rows

    def steps(self, time: _Time, start: Sequence[str], end: Sequence[str], label: str, kind: Kind) -> None:
        """Arrows from each step to the next; where one stands for all steps, from it to itself."""
        pairs = [(start[0], end[0])] if time.steps == ("",) else zip(start, end[1:], strict=False)
        self.made.edges += [Edge(*pair, label, kind) for pair in pairs]

    def merged(self, id: str, directions: Sequence[_Values], merge: str) -> _Values:
        """The outputs of a layer, of two directions merged."""
        if len(directions) == 1:
            return directions[0]
        return self.add(f"{id}_{merge}", merge, directions[0].time, _merged_size(directions, merge), *directions)

    def final(self, id: str, layers: Layers, directions: Sequence[_Values]) -> _Values:
        """The last output of a layer, which of the second direction is that of the first step."""
        label = "last output" if len(directions) == 1 else f"last outputs: {layers.merge}"
        last = [values.last(backwards=bool(number)) for number, values in enumerate(directions)]
        return self.add(id, label, last[0].time, _merged_size(directions, layers.merge), *last)

    # ---------------------------------------------------------------------------------------------- kinds

    def many_to_many(self, network: Network) -> None:
        layers = network.layers["rnn"]
        rows = self.body("rnn", layers, self.inputs("input", layers, self.time))
        self.outputs(network, self.merged("rnn_top", rows[-1], layers.merge))

    char_lm = many_to_many

    def many_to_one(self, network: Network) -> None:
        layers, kind = network.layers["rnn"], network.options["pooling"]
        rows = self.body("rnn", layers, self.inputs("input", layers, self.time))
        if kind == "last":
            pooled = self.final("last", layers, rows[-1])
        else:
            top = self.merged("rnn_top", rows[-1], layers.merge)
            pooled = self.add("pooling", f"{kind} over the steps", self.time.once, top.size, top)
        self.outputs(network, pooled)

    def one_to_many(self, network: Network) -> None:
        layers, start = network.layers["rnn"], network.linear["start"]
        first = self.add("input", "first input", self.time.once, start.weight.shape[1], data=True)
        state = self.linear("start", start, first, ", tanh")
        rows = self.body("rnn", layers, self.inputs("fed_back", layers, self.time, "output of the step before"))
        for (forwards,) in rows:
            self.made.edges.append(Edge(state.nodes[0], forwards.nodes[0], f"first h [N, {forwards.size}]"))
        self.feedback(self.outputs(network, rows[-1][0]), "fed_back", layers)

    def one_to_one(self, network: Network) -> None:
        below = self.add(
            "input", "vector", self.time.once, next(iter(network.linear.values())).weight.shape[1], data=True
        )
        for name, linear in list(network.linear.items())[:-1]:
            below = self.linear(name, linear, below, f", {network.options['activation']}")
        self.outputs(network, below)

    def encoder_decoder(self, network: Network) -> None:
        encoder, decoder, source = network.layers["encoder"], network.layers["decoder"], self.times("S")
        read = self.body("encoder", encoder, self.inputs("source", encoder, source, "source tokens"))
        previous = self.inputs("target", decoder, self.time, "target token of the step before")
        written = self.body("decoder", decoder, previous)
        for number, (above, below) in enumerate(zip(written, read, strict=True)):
            layer = encoder.layers[number][0]
            states, names = _states(layer, source), layer.equations.states
            ends = [values.last(backwards=bool(reverse)).nodes[0] for reverse, values in enumerate(below)]
            if len(ends) > 1:
                outputs, inputs = network.linear["bridge0"].weight.shape
                bridge = f"bridge_l{number}"
                self.made.nodes[bridge] = f"linear {inputs} to {outputs} of {names[0]}" + " and of c" * ("c" in names)
                self.made.edges += [Edge(end, bridge, states) for end in ends]
                ends = [bridge]
            self.made.edges.append(Edge(ends[0], above[0].nodes[0], states, "state"))
        top = written[-1][0]
        if network.attention is not None:
            memory = self.merged("encoder_top", read[-1], encoder.merge)
            context = self.add("attention", f"{network.attention} attention", self.time, memory.size, top)
            self.made.edges += [Edge(one, node, memory.shape) for node in context.nodes for one in memory.nodes]
            outputs, inputs = network.linear["combine"].weight.shape
            top = self.add("combine", f"linear {inputs} to {outputs}, tanh", self.time, outputs, context, top)
        self.feedback(self.outputs(network, top), "target", decoder)

    def feedback(self, outputs: _Values, id: str, layers: Layers) -> None:
        """The output of a step is what the next one reads."""
        shape = _Values(outputs.time, (), None if layers.embedding is not None else outputs.size).shape
        self.steps(outputs.time, outputs.nodes, [id + step for step in outputs.time.steps], shape, "feedback")

    def tagger(self, network: Network) -> None:
        layers, spelling = network.layers["rnn"], network.layers["spelling"]
        assert network.embedding is not None
        characters = self.inputs("characters", spelling, _Time(("",), "C, K"), "characters")
        spelled = self.final("spelled", spelling, self.body("spelling", spelling, characters)[-1])
        words = self.embedding("embedding", network.embedding, self.add("input", "words", self.time, None, data=True))
        joined = self.add("words_and_spellings", "concat", self.time, layers.input_size, words, spelled)
        self.outputs(network, self.merged("rnn_top", self.body("rnn", layers, joined)[-1], layers.merge))


def _states(layer: Layer, time: _Time) -> str:
    return f"{', '.join(layer.equations.states)} [{time.once.letters}, {layer.hidden_size}]"


def _merged_size(directions: Sequence[_Values], merge: str) -> int:
    sizes = [values.size or 0 for values in directions]
    return sum(sizes) if merge == "concat" else sizes[0]
