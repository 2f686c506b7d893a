"""Drawings of nets: the graph, its shapes against those of real calls, and the text read back by small grammars."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import TASKS

import minirnn as mr
from minirnn.errors import OptionError
from minirnn.export.drawing import Diagram, Edge, diagram

MERMAID_NODE = re.compile(r'    (\w+)(?:\["([^"]*)"\]|\(\["([^"]*)"\]\))')
MERMAID_EDGE = re.compile(r'    (\w+) (-->|==>|-\.->)(?:\|"([^"|]*)"\|)? (\w+)')
STRING = r'"((?:[^"\\]|\\.)*)"'
DOT_NODE = re.compile(rf"    (\w+) \[label={STRING}(, shape=ellipse)?\];")
DOT_EDGE = re.compile(rf"    (\w+) -> (\w+) \[label={STRING}(, style=(?:bold|dashed), constraint=false)?\];")
RESERVED = {"end", "graph", "subgraph", "flowchart", "node", "edge", "digraph", "style", "class", "click", "default"}

MODELS: dict[str, Any] = {
    "char_lm": lambda: mr.models.CharLM(7, 6, num_layers=2, embedding_size=5),
    "many_to_many": lambda: mr.models.ManyToMany(3, 4, 2, cell="gru", bidirectional=True, merge="sum", num_layers=2),
    "many_to_one": lambda: mr.models.ManyToOne(9, 4, 2, embedding_size=3, bidirectional=True),
    "attentive": lambda: mr.models.ManyToOne(3, 4, 2, cell="slstm", pooling="attention"),
    "one_to_many": lambda: mr.models.OneToMany(3, 4, 5, num_layers=2, embedding_size=0),
    "one_to_one": lambda: mr.models.OneToOne(3, 4, 2, num_layers=2, activation="tanh"),
    "encoder_decoder": lambda: mr.models.EncoderDecoder(9, 8, 4, num_layers=2, embedding_size=3),
    "plain_decoder": lambda: mr.models.EncoderDecoder(9, 8, 4, attention=None, bidirectional=False),
}


def read_mermaid(text: str) -> Diagram:
    first, *lines = text.splitlines()
    assert first == "flowchart LR"
    kinds = {"-->": "data", "==>": "state", "-.->": "feedback"}
    made = Diagram()
    for line in lines:
        if edge := MERMAID_EDGE.fullmatch(line):
            made.edges.append(Edge(edge[1], edge[4], edge[3] or "", kinds[edge[2]]))  # type: ignore[arg-type]
        else:
            node = MERMAID_NODE.fullmatch(line)
            assert node, line
            made.nodes[node[1]] = node[2] or node[3]
            made.data |= {node[1]} if node[3] else set()
    return made


def read_dot(text: str) -> Diagram:
    first, direction, shape, *lines, last = text.splitlines()
    assert (first, direction, shape, last) == ("digraph net {", "    rankdir=BT;", "    node [shape=box];", "}")
    made = Diagram()
    for line in lines:
        if edge := DOT_EDGE.fullmatch(line):
            kind = "state" if "bold" in (edge[4] or "") else "feedback" if edge[4] else "data"
            made.edges.append(Edge(edge[1], edge[2], edge[3], kind))
        else:
            node = DOT_NODE.fullmatch(line)
            assert node, line
            made.nodes[node[1]] = node[2]
            made.data |= {node[1]} if node[3] else set()
    return made


def into(made: Diagram, end: str, kind: str = "data") -> list[tuple[str, str]]:
    return [(edge.start, edge.label) for edge in made.edges if (edge.end, edge.kind) == (end, kind)]


@pytest.mark.parametrize("unfold", [None, 1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_both_languages_say_the_same_and_every_node_is_reached(name: str, unfold: int | None) -> None:
    model = MODELS[name]()
    made = diagram(model, unfold)
    assert read_mermaid(mr.draw(model, unfold)) == made
    assert read_dot(mr.draw(model, unfold, to="dot")) == made
    assert not RESERVED & made.nodes.keys()
    ends = {end for edge in made.edges for end in (edge.start, edge.end)}
    assert ends == made.nodes.keys()
    inputs = made.nodes.keys() - {edge.end for edge in made.edges if edge.kind != "feedback"}
    outputs = {node for node in made.nodes if node.startswith("output")}
    assert inputs | outputs == made.data
    assert len(outputs) == (unfold or 1 if name not in ("many_to_one", "attentive", "one_to_one") else 1)
    assert {edge.start for edge in made.edges if edge.kind != "feedback"} == made.nodes.keys() - outputs


def test_shapes_are_those_of_the_layers() -> None:
    lm = MODELS["char_lm"]()
    made = diagram(lm)
    sizes = {"T": 4, "N": 2}
    tokens = np.zeros((4, 2), int)
    values = {"embedding": lm.embedding(tokens), "rnn_l1": lm.rnn(lm.embedding(tokens))[0], "head": lm(tokens)[0]}
    for node, value in values.items():
        (label,) = {edge.label for edge in made.edges if edge.start == node and edge.kind == "data"}
        assert tuple(sizes.get(size) or int(size) for size in label.strip("[]").split(", ")) == value.shape
    assert into(made, "rnn_l0", "state") == [("rnn_l0", "h, c [N, 6]")]
    assert made.nodes["embedding"] == f"embedding {lm.embedding.weight.shape[0]} x {lm.embedding.weight.shape[1]}"


def test_two_directions() -> None:
    made = diagram(MODELS["many_to_many"](), unfold=3)
    assert into(made, "rnn_l0_2", "state") == [("rnn_l0_1", "h [N, 4]")]
    assert into(made, "rnn_l0_reverse_2", "state") == [("rnn_l0_reverse_3", "h [N, 4]")]
    assert into(made, "rnn_l0_concat_1") == [("rnn_l0_1", "[N, 4]"), ("rnn_l0_reverse_1", "[N, 4]")]
    assert into(made, "rnn_l1_1") == into(made, "rnn_l1_reverse_1") == [("rnn_l0_concat_1", "[N, 8]")]
    assert into(made, "head_1") == [("rnn_top_sum_1", "[N, 4]")]
    one = diagram(MODELS["many_to_one"](), unfold=3)
    assert into(one, "last") == [("rnn_l0_3", "[N, 4]"), ("rnn_l0_reverse_1", "[N, 4]")]
    assert into(one, "head") == [("last", "[N, 8]")]
    assert one.nodes["input_2"] == "tokens 2"


def test_decoders_read_their_own_output() -> None:
    made = diagram(MODELS["encoder_decoder"](), unfold=2)
    assert into(made, "target_2", "feedback") == [("output_1", "[N]")]
    assert into(made, "bridge_l1") == [("encoder_l1_2", "h, c [N, 4]"), ("encoder_l1_reverse_1", "h, c [N, 4]")]
    assert into(made, "decoder_l1_1", "state") == [("bridge_l1", "h, c [N, 4]")]
    memory = [("encoder_top_concat_1", "[N, 8]"), ("encoder_top_concat_2", "[N, 8]")]
    assert into(made, "attention_2") == [("decoder_l1_2", "[N, 4]"), *memory]
    assert into(made, "combine_2") == [("attention_2", "[N, 8]"), ("decoder_l1_2", "[N, 4]")]
    plain = diagram(MODELS["plain_decoder"]())
    assert into(plain, "decoder_l0", "state") == [("decoder_l0", "h, c [N, 4]"), ("encoder_l0", "h, c [N, 4]")]
    assert into(plain, "head") == [("decoder_l0", "[T, N, 4]")]
    many = diagram(MODELS["one_to_many"](), unfold=2)
    assert into(many, "rnn_l1_1") == [("rnn_l0_1", "[N, 4]"), ("start", "first h [N, 4]")]
    assert into(many, "fed_back_2", "feedback") == [("output_1", "[N]")]


def test_labels_are_escaped() -> None:
    made = Diagram({"a": 'x "y" #1 <b>&\n\\'}, set(), [Edge("a", "a", 'say "hi"')])
    mermaid = made.mermaid().splitlines()
    assert mermaid[1] == r'    a["x #quot;y#quot; #35;1 #lt;b#gt;#amp;<br/>\"]'
    assert MERMAID_EDGE.fullmatch(mermaid[2])
    assert r'a [label="x \"y\" #1 <b>&\n\\"];' in made.dot()
    assert DOT_EDGE.fullmatch(made.dot().splitlines()[-2])


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_drawn(tmp_path: Path, name: str) -> None:
    task = TASKS[name].make(TASKS[name].write(tmp_path))
    made = diagram(task, unfold=2)
    assert read_mermaid(mr.draw(task, unfold=2)) == read_dot(mr.draw(task.model, 2, "dot")) == made
    assert diagram(task) != made
    if name == "tagger":
        assert into(made, "words_and_spellings_2") == [("embedding_2", "[N, 3]"), ("spelled", "[K, 128]")]
        assert into(made, "spelling_l0_reverse", "state") == [("spelling_l0_reverse", "h, c [K, 64]")]
        assert into(made, "spelling_l0") == [("characters_embedding", "[C, K, 32]")]


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(OptionError, match="draw: expected a trained task or a model"):
        mr.draw(mr.nn.Linear(2, 3))
    for unfold in (0, 101):
        with pytest.raises(OptionError, match="draw: unfold"):
            mr.draw(MODELS["char_lm"](), unfold)
    with pytest.raises(OptionError, match="draw: to"):
        mr.draw(MODELS["char_lm"](), to="svg")


def test_the_guide_shows_what_is_drawn() -> None:
    page = (Path(mr.__file__).parents[1] / "docs" / "guides" / "draw.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```mermaid\n(.*?)\n```", page, re.DOTALL)
    model = mr.models.ManyToOne(1000, 32, 2, embedding_size=16)
    assert blocks == [mr.draw(model), mr.draw(model, unfold=3)]
