"""``warmup``: compiling kernels ahead of need."""

from __future__ import annotations

import time
from json import dumps

import numpy as np

from minirnn.data.text import Characters
from minirnn.models import EncoderDecoder
from minirnn.tasks.char import CharConfig, Corpus, TextGenerator
from minirnn.training import Trainer, TrainingConfig
from minirnn_cli import options as o
from minirnn_cli.show import say


def warmup(quiet: o.Quiet = False, json: o.Json = False) -> None:
    """Compile the kernels of training, sampling and prediction now, so that later commands start at once."""
    from minirnn.kernels.cache import cache_folder, on_compile  # loads Numba

    compiled: list[str] = []

    def listener(kernel: str) -> None:
        compiled.append(kernel)
        if not quiet:
            say(f"compiling {kernel}")

    started = time.perf_counter()
    corpus = Corpus(np.arange(400) % 3, Characters("\nab"))
    with on_compile(listener):
        for cell in ("layer_norm_gru", "lstm", "gru", "rnn"):
            config = CharConfig(cell=cell, hidden_size=8, dropout=0.5, batch_size=4, seq_length=8)
            generator = TextGenerator.build(corpus, config)
            for _ in Trainer(generator, TrainingConfig(steps=1)).fit():
                pass
            generator.sample(length=2, seed=0)
        for attention in ("additive", "dot"):
            model = EncoderDecoder(5, 5, 8, attention=attention, dropout=0.5)
            model.loss([[4, 4], [4, 0]], [[1, 1], [4, 2], [2, 0]], [2, 1], [3, 2]).backward()
            model.generate([[4, 4]], max_length=2, beam_width=2)
    seconds, folder = time.perf_counter() - started, cache_folder()
    if json:
        print(dumps({"compiled": compiled, "seconds": seconds, "cache": str(folder) if folder else None}))
    elif not quiet:
        kept = f"stored in {folder}" if folder else "not stored: there is no folder that only you can write to"
        say(f"{len(compiled)} kernels compiled in {seconds:.1f} s; {kept}")
