"""The CTC loss against PyTorch's, on the CPU, in one process.

    python benchmarks/ctc.py [--seconds 2] [--dtype float32]

32 sequences of 200 steps with targets of 40 labels, 30 and 100 classes; forward and backward pass of the loss alone,
from log-probabilities to their gradient, on one thread and on two. The programs alternate, as in `minirnn bench`; the
ratio is the median over the turns.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch
from minirnn_cli.bench import Runner, measure

import minirnn as mr
import minirnn.nn.functional as F

STEPS, BATCH, LABELS = 200, 32, 40


def runners(classes: int, dtype: str) -> dict[str, Runner]:
    rng = np.random.default_rng(0)
    logits = mr.tensor(rng.standard_normal((STEPS, BATCH, classes)), dtype=dtype)
    targets = rng.integers(1, classes, (BATCH, LABELS))
    lengths = np.full(BATCH, STEPS), np.full(BATCH, LABELS)
    ours = mr.tensor(logits.log_softmax(2).numpy(), requires_grad=True, dtype=dtype)
    theirs = torch.tensor(ours.numpy(), requires_grad=True)
    targets_t, *lengths_t = (torch.from_numpy(values) for values in (targets, *lengths))

    def minirnn() -> int:
        ours.grad = None
        F.ctc_loss(ours, targets, *lengths).backward()
        return 1

    def pytorch() -> int:
        theirs.grad = None
        torch.nn.functional.ctc_loss(theirs, targets_t, *lengths_t).backward()
        return 1

    minirnn(), pytorch()
    assert ours.grad is not None
    assert theirs.grad is not None
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-3, atol=1e-5)
    return {"minirnn": minirnn, "torch": pytorch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    options = parser.parse_args()
    print("| classes | threads | minirnn | PyTorch | ratio |\n|---|---|---|---|---|")
    for classes in (30, 100):
        for threads in (1, 2):
            mr.set_num_threads(threads)
            torch.set_num_threads(threads)
            times = measure(runners(classes, options.dtype), options.seconds)
            ratio = statistics.median(b / a for a, b in zip(times["minirnn"], times["torch"], strict=True))
            shown = " | ".join(f"{1e3 * statistics.median(times[name]):.2f} ms" for name in times)
            print(f"| {classes} | {threads} | {shown} | {ratio:.1f}x |", flush=True)


if __name__ == "__main__":
    main()
