"""Batches of different lengths, and attention, against PyTorch in one process.

    python benchmarks/vs_torch_ragged.py [--threads 2] [--seconds 3]

- classification: a bidirectional LSTM 1x256 over 64 sequences of 1 to 100 vectors of 128 numbers, the final states to
  10 classes; PyTorch with packed sequences (the same results) and with padding only (other results: its reverse
  direction reads the padding first).
- translation: an encoder-decoder with additive attention, H 256, both vocabularies 8,000, 64 pairs of 20 tokens; in
  PyTorch hand-written in the fastest form, attention over all decoder steps at once.

One unit is a whole training step: loss, backward pass, clipping, Adam. The programs alternate, as in `minirnn bench`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from minirnn_cli.bench import Runner, measure

import minirnn as mr
import minirnn.nn.functional as F
from minirnn.data.vocabulary import END, START

HIDDEN, BATCH, CLASSES, WIDTH, LONGEST = 256, 64, 10, 128, 100
VOCABULARY, TOKENS = 8000, 20


def _stepping(loss: Callable[[], Any], parameters: list[Any], optimizer: Any, clip: Callable[..., Any]) -> Runner:
    def step() -> int:
        optimizer.zero_grad()
        loss().backward()
        clip(parameters, 1.0)
        optimizer.step()
        return 1

    return step


def _ours(model: mr.nn.Module, loss: Callable[[], Any]) -> Runner:
    parameters = list(model.parameters())
    return _stepping(loss, parameters, mr.optim.Adam(parameters, lr=1e-3), mr.optim.clip_grad_norm_)


def _theirs(modules: list[torch.nn.Module], loss: Callable[[], Any]) -> Runner:
    parameters = [p for module in modules for p in module.parameters()]
    return _stepping(loss, parameters, torch.optim.Adam(parameters, lr=1e-3), torch.nn.utils.clip_grad_norm_)


def classification() -> dict[str, Runner]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, LONGEST + 1, BATCH)
    x = rng.standard_normal((LONGEST, BATCH, WIDTH)).astype(np.float32)
    y = rng.integers(0, CLASSES, BATCH)
    model = mr.models.ManyToOne(WIDTH, HIDDEN, CLASSES, bidirectional=True)

    rnn, head = torch.nn.LSTM(WIDTH, HIDDEN, bidirectional=True), torch.nn.Linear(2 * HIDDEN, CLASSES)
    x_t, y_t, lengths_t = torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(lengths)

    def scored(inputs: Any) -> Any:
        _, (h_n, _) = rnn(inputs)
        return torch.nn.functional.cross_entropy(head(torch.cat([h_n[0], h_n[1]], 1)), y_t)

    def packed() -> Any:
        return scored(torch.nn.utils.rnn.pack_padded_sequence(x_t, lengths_t, enforce_sorted=False))

    return {
        "minirnn": _ours(model, lambda: F.cross_entropy(model(x, lengths), y)),
        "torch, packed": _theirs([rnn, head], packed),
        "torch, padded": _theirs([rnn, head], lambda: scored(x_t)),
    }


class TorchTranslator(torch.nn.Module):
    """The model of minirnn's EncoderDecoder, one layer, additive attention."""

    def __init__(self) -> None:
        super().__init__()
        nn, size = torch.nn, HIDDEN
        self.source, self.target = nn.Embedding(VOCABULARY, size), nn.Embedding(VOCABULARY, size)
        self.encoder, self.decoder = nn.LSTM(size, size, bidirectional=True), nn.LSTM(size, size)
        self.bridge_h, self.bridge_c = nn.Linear(2 * size, size), nn.Linear(2 * size, size)
        self.query, self.memory = nn.Linear(size, size), nn.Linear(2 * size, size, bias=False)
        self.score, self.combine = nn.Linear(size, 1, bias=False), nn.Linear(3 * size, size)
        self.head = nn.Linear(size, VOCABULARY)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        values, (h, c) = self.encoder(self.source(source))
        state = (
            torch.tanh(self.bridge_h(torch.cat([h[0], h[1]], 1)))[None],
            self.bridge_c(torch.cat([c[0], c[1]], 1))[None],
        )
        h_d, _ = self.decoder(self.target(target[:-1]), state)
        queries, keys = self.query(h_d).transpose(0, 1), self.memory(values).transpose(0, 1)
        scores = self.score(torch.tanh(queries[:, :, None] + keys[:, None])).squeeze(3)  # [N, T, S]
        context = scores.softmax(2) @ values.transpose(0, 1)
        joined = torch.tanh(self.combine(torch.cat([context.transpose(0, 1), h_d], 2)))
        return torch.nn.functional.cross_entropy(self.head(joined).reshape(-1, VOCABULARY), target[1:].reshape(-1))


def translation() -> dict[str, Runner]:
    rng = np.random.default_rng(0)
    source = rng.integers(4, VOCABULARY, (TOKENS, BATCH))
    tokens = rng.integers(4, VOCABULARY, (TOKENS - 1, BATCH))
    target = np.concatenate([np.full((1, BATCH), START), tokens, np.full((1, BATCH), END)])
    ours = mr.models.EncoderDecoder(VOCABULARY, VOCABULARY, HIDDEN)
    theirs = TorchTranslator()
    source_t, target_t = torch.from_numpy(source), torch.from_numpy(target)
    return {
        "minirnn": _ours(ours, lambda: ours.loss(source, target)),
        "torch": _theirs([theirs], lambda: theirs(source_t, target_t)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    mr.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    print("| work | program | per step | against minirnn |\n|---|---|---|---|")
    for name, make in {"classification": classification, "translation": translation}.items():
        times = measure(make(), options.seconds)
        for program, values in times.items():
            ratio = statistics.median(b / a for a, b in zip(times["minirnn"], values, strict=True))
            print(f"| {name} | {program} | {1e3 * statistics.median(values):.1f} ms | {ratio:.2f}x |", flush=True)


if __name__ == "__main__":
    main()
