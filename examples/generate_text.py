"""Train a character model in Python, then let it write.

    python examples/generate_text.py [FILE] [--minutes 1]

Reads FILE, or the Python standard library's sources without one. The loop is spelled out: batches, loss, backward,
clipping, step. Expected: after a minute on two cores the Python sources stand at about 1.2 nats per symbol, and the
sample looks like Python from a distance.
"""

from __future__ import annotations

import argparse
import time

import minirnn as mr
from minirnn.data.text import Streams
from minirnn.tasks.char import evaluate, read_corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", default="@python")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--hidden", type=int, default=256)
    options = parser.parse_args()

    mr.manual_seed(1337)
    tokens, symbols = read_corpus([options.file])
    cut = int(0.9 * len(tokens))
    train = Streams.of(tokens[:cut], batch_size=32, seq_length=64)
    validation = Streams.of(tokens[cut : cut + 100_000], batch_size=32, seq_length=256)

    model = mr.models.CharLM(len(symbols), options.hidden, num_layers=2, cell="lstm")
    optimizer = mr.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.99))
    end = time.perf_counter() + 60 * options.minutes
    step, running = 0, True
    while running:
        state = None  # a new pass over the text: nothing has been read yet
        for inputs, targets in train:
            logits, state = model(inputs, state)
            state = tuple(s.detach() for s in state)  # truncated backpropagation: gradients stop at the chunk's start
            loss = mr.nn.functional.cross_entropy(logits.reshape(-1, len(symbols)), targets.reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            mr.optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % 200 == 0:
                print(f"step {step}: {loss.item():.3f} nats per symbol")
            if time.perf_counter() > end:
                running = False
                break
    print(f"validation: {evaluate(model, validation):.3f} nats per symbol")
    ids = model.generate(symbols.encode("\n"), 400, temperature=0.8, seed=1)
    print(symbols.decoder()(ids))


if __name__ == "__main__":
    main()
