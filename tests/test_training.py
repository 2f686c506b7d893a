"""The training loop: threads, evaluation, metrics, budgets, skipped steps, rolling back, and disks that fail."""

import errno
import json
import logging
import math
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import SMALL, contents, needs_many_steps, run, steps_of

import minirnn as mr
from minirnn import checkpoint
from minirnn.autograd.tensor import Tensor
from minirnn.data.text import Characters
from minirnn.errors import CheckpointError, DivergedError, OptionError, SaveError
from minirnn.kernels import cache
from minirnn.runs import BEST, LAST, METRICS, PREVIOUS
from minirnn.tasks import char
from minirnn.tasks.char import CharConfig, Corpus, TextGenerator, evaluate
from minirnn.training import Trainer, TrainingConfig
from minirnn.training import trainer as loop

TEXT = "the quick brown fox jumps over the lazy dog. " * (12 if SMALL else 60)


def _task(text: str = TEXT, **options: Any) -> TextGenerator:
    symbols = Characters.of(TEXT)
    sizes = {"hidden_size": 16, "batch_size": 4, "seq_length": 10, "seed": 0}
    return TextGenerator.build(Corpus(symbols.encode(text), symbols), CharConfig(**(sizes | options)))


def _trained(cell: str, results: dict[str, Any], name: str) -> None:
    task = _task(cell=cell, hidden_size=16 if SMALL else 192)
    steps = run(Trainer(task, TrainingConfig(steps=10)))
    results[name] = task.model.state_dict() | {"loss": np.array([step.train_loss for step in steps])}


def test_two_models_trained_in_two_threads_have_the_same_numbers_as_alone(set_threads: Any) -> None:
    """Initial weights and dropout masks too: a thread that seeds has a generator of its own."""
    set_threads(2)
    results: dict[str, dict[str, np.ndarray]] = {}
    for kind in ("alone", "together"):
        started = [Thread(target=_trained, args=(cell, results, f"{cell} {kind}")) for cell in ("lstm", "gru")]
        for thread in started:
            thread.start()
            if kind == "alone":
                thread.join()
        for thread in started:
            thread.join()
    for cell in ("lstm", "gru"):
        _trained(cell, results, f"{cell} main")
        for name, array in results[f"{cell} alone"].items():
            for kind in ("together", "main"):
                np.testing.assert_array_equal(results[f"{cell} {kind}"][name], array, err_msg=f"{cell} {name} {kind}")


def test_a_thread_shares_the_generator_of_the_main_thread_until_it_seeds() -> None:
    drawn: list[int] = []

    def draw() -> None:
        drawn.append(mr.random.draw_seed())
        mr.manual_seed(5)
        drawn.append(mr.random.draw_seed())

    mr.manual_seed(7)
    expected = [mr.random.draw_seed(), mr.random.draw_seed()]
    mr.manual_seed(5)
    seeded = mr.random.draw_seed()
    mr.manual_seed(7)
    thread = Thread(target=draw)
    thread.start()
    thread.join()
    assert drawn == [expected[0], seeded]
    assert mr.random.draw_seed() == expected[1]


@pytest.mark.needs_jit
def test_seconds_of_compiling_are_no_training_time(monkeypatch: pytest.MonkeyPatch) -> None:
    task, seconds = _task(), 3600.0
    loss = task.loss

    def slow(batch_index: int, progress: float) -> Any:
        """As if an hour of compiling had passed."""
        nonlocal now, compiling
        now, compiling = now + seconds, compiling + seconds
        return loss(batch_index, progress)

    now = compiling = 0.0
    clock = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + now)
    monkeypatch.setattr(cache, "compile_seconds", lambda: compiling)
    monkeypatch.setattr(task, "loss", slow)
    trainer = Trainer(task, TrainingConfig(minutes=30))
    steps = trainer.fit()
    for number in (1, 2, 3):
        step = next(steps)
        assert (step.step, step.progress < 0.5) == (number, True)
        assert 0 < step.seconds < 600


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_trains_with_the_same_numbers(set_threads: Any, tmp_path: Path) -> None:
    set_threads(2)
    results: dict[str, dict[str, np.ndarray]] = {}
    _trained("lstm", results, "before")  # the parent has compiled, and has threads, which the child does not inherit
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(60)
            _trained("lstm", results, "child")
            np.savez(tmp_path / "child.npz", **results["child"])
            code = 0
        finally:
            os._exit(code)
    _trained("lstm", results, "meanwhile")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with np.load(tmp_path / "child.npz") as found:
        for name, array in results["before"].items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
            np.testing.assert_array_equal(results["meanwhile"][name], array, err_msg=name)


@needs_many_steps
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_training_learns_a_sentence(cell: str, tmp_path: Path) -> None:
    task = _task(cell=cell, dropout=0.0, weight_drop=0.0, hidden_size=32)
    steps = run(Trainer(task, TrainingConfig(steps=300, lr=1e-2), tmp_path))
    assert steps[0].train_loss > 2.5
    assert steps[-1].metrics is not None
    assert steps[-1].metrics["val_loss"] < 0.2
    assert steps[-1].metrics["bits_per_symbol"] == pytest.approx(steps[-1].metrics["val_loss"] / math.log(2))
    text = TextGenerator.load(tmp_path / BEST).sample("the quick ", 35, temperature=0)
    assert text == "brown fox jumps over the lazy dog. "


def test_validation_is_the_mean_over_every_symbol() -> None:
    task = _task()
    tokens = task._validation.tokens.T
    x, y = tokens[:-1], tokens[1:]
    logits = task.model.eval()(x)[0].log_softmax().numpy()
    expected = -np.take_along_axis(logits, y[..., None], -1).mean(dtype=np.float64)
    assert evaluate(task.model, task._validation)["loss"] == pytest.approx(expected, rel=1e-5)
    cut = len(Characters.of(TEXT).encode(TEXT)) - round(0.1 * len(TEXT))
    tokens = task._validation.tokens.reshape(-1)
    assert tokens.tolist() == Characters.of(TEXT).encode(TEXT[cut:]).tolist()[: tokens.size]


def test_the_state_is_kept_within_an_epoch_and_reset_at_its_end() -> None:
    task = _task(cell="lstm", dropout=0.0, weight_drop=0.0)
    task.start_epoch(0)
    task.loss(0, 0.0)
    carried = task.state_dict()
    assert set(carried) == {"0", "1"}
    x, _ = task._train.chunk(0)
    _, (h, c) = task.model(x)
    np.testing.assert_allclose(carried["0"], h.numpy(), atol=1e-6)
    np.testing.assert_allclose(carried["1"], c.numpy(), atol=1e-6)
    second, _ = task.loss(1, 0.0)
    task.start_epoch(1)
    assert task.state_dict() == {}
    assert task.loss(1, 0.0)[0].item() != second.item()


def test_metrics_after_the_saved_step_are_removed_on_resuming(tmp_path: Path) -> None:
    """A run that was killed may have written more lines than it saved steps."""
    config = TrainingConfig(steps=12, evaluations=2, log_every=1)
    run(Trainer(_task(), config, tmp_path), 6)
    with open(tmp_path / METRICS, "a", encoding="utf-8") as file:
        file.write('{"step": 7, "train_loss": 1.0}\n{"step": 8, "tr')
    run(Trainer(_task(), config, tmp_path, resume=True))
    assert steps_of(tmp_path) == list(range(1, 13))


def test_resuming_needs_a_last_state_with_the_same_optimizer(tmp_path: Path) -> None:
    config = TrainingConfig(steps=2)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        Trainer(_task(), config, tmp_path, resume=True)
    run(Trainer(_task(), config, tmp_path))
    with pytest.raises(CheckpointError, match='optimizer was "adamw", now it is "sgd"'):
        Trainer(_task(), TrainingConfig(steps=2, optimizer="sgd"), tmp_path, resume=True)
    os.replace(tmp_path / BEST, tmp_path / LAST)
    with pytest.raises(CheckpointError, match="holds no optimizer state"):
        Trainer(_task(), config, tmp_path, resume=True)


def test_a_resumed_run_takes_new_settings_of_the_training_loop(tmp_path: Path) -> None:
    run(Trainer(_task(), TrainingConfig(steps=4, evaluations=4), tmp_path))
    config = TrainingConfig(steps=8, evaluations=4, weight_decay=0.5, clip=0.1)
    trainer = Trainer(_task(), config, tmp_path, resume=True)
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.5
    assert [step.step for step in run(trainer) if step.metrics] == [6, 8]


@pytest.mark.needs_bfloat16
def test_bf16_comes_close_to_fp32_evaluates_in_it_and_resumes_with_the_same_numbers(tmp_path: Path) -> None:
    def trainer(precision: str, out: str, resume: bool = False) -> Trainer:
        config = TrainingConfig(steps=8, evaluations=1, log_every=1, precision=precision)
        return Trainer(_task(cell="rnn"), config, tmp_path / out, resume)

    exact = run(trainer("fp32", "exact"))
    whole = trainer("bf16", "whole")
    steps = run(whole)
    differences = [abs(one.train_loss - other.train_loss) for one, other in zip(steps, exact, strict=True)]
    assert 0 < max(differences) < 0.02
    assert steps[-1].metrics == whole.task.evaluate()  # outside of training all products are of float32
    arrays, config = checkpoint.load(tmp_path / "whole" / LAST)
    assert {array.dtype for name, array in arrays.items() if name.startswith("model.")} == {np.dtype(np.float32)}
    assert config["options"]["precision"] == "bf16"
    run(trainer("bf16", "cut"), 3)
    run(trainer("bf16", "cut", resume=True))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_the_last_state_is_saved_between_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minirnn.training.trainer.SAVE_SECONDS", -1)
    trainer = Trainer(_task(), TrainingConfig(steps=9, evaluations=1), tmp_path)
    for step in trainer.fit():
        assert checkpoint.load_config(tmp_path / LAST)["position"]["step"] == step.step


def test_metrics_are_written_at_evaluations_and_every_few_steps(tmp_path: Path) -> None:
    steps = run(Trainer(_task(), TrainingConfig(steps=10, evaluations=2, log_every=3), tmp_path))
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 5, 6, 9, 10]
    assert [("val_loss" in line) for line in lines] == [False, True, False, False, True]
    assert lines == [step.line() for step in steps if step.logged]
    assert {"step", "tokens", "seconds", "train_loss", "lr", "grad_norm"} <= lines[0].keys()
    assert lines[-1]["tokens"] == 10 * 4 * 10


def test_the_best_state_has_the_lowest_validation_loss(tmp_path: Path) -> None:
    task = _task()
    losses = iter([3.0, 2.0, 2.5, 1.9, 4.0])
    weights = {}

    def scripted() -> dict[str, float]:
        loss = next(losses)
        weights[loss] = task.model.state_dict()["head.weight"]
        return {"val_loss": loss}

    task.evaluate = scripted  # type: ignore[method-assign]
    steps = run(Trainer(task, TrainingConfig(steps=10, evaluations=5), tmp_path))
    assert [s.best for s in steps if s.metrics] == [True, True, False, True, False]
    arrays, config = checkpoint.load(tmp_path / BEST)
    assert config["position"]["best"] == {"val_loss": 1.9}
    np.testing.assert_array_equal(arrays["model.head.weight"], weights[1.9])


def timed(task: TextGenerator, monkeypatch: pytest.MonkeyPatch, evaluation_seconds: float = 0.0) -> TextGenerator:
    """A task whose steps take a second each by the trainer's clock, and evaluations as long as given."""
    now, loss = [0.0], task.loss

    def timed_loss(batch_index: int, progress: float) -> tuple[Tensor, int]:
        now[0] += 1
        return loss(batch_index, progress)

    def timed_evaluate() -> dict[str, float]:
        now[0] += evaluation_seconds
        return {"val_loss": 1.0}

    monkeypatch.setattr(loop, "_clock", lambda: now[0])
    task.loss, task.evaluate = timed_loss, timed_evaluate  # type: ignore[method-assign]
    return task


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, range(3, 61, 3)),
        (0.25, (3, 6, 12, 15, 20, 26, 29, 35, 40, 43, 49, 55, 57)),
        (3.0, (3, 57)),
        (30.0, (3, 30)),
    ],
)
def test_evaluations_but_the_last_take_a_small_part_of_a_budget_in_minutes(
    monkeypatch: pytest.MonkeyPatch, seconds: float, expected: Sequence[int]
) -> None:
    """Steps of a second: another one begins where at most 5 % of the time so far went into evaluations."""
    task = timed(_task(), monkeypatch, evaluation_seconds=seconds)
    trainer = Trainer(task, TrainingConfig(minutes=1, evaluations=20))
    assert [step.step for step in run(trainer) if step.metrics] == list(expected)
    assert trainer.position.evaluation_seconds == pytest.approx(seconds * len(expected))


@pytest.mark.parametrize(("budget", "known_after"), [("steps", 0), ("epochs", 0), ("minutes", 6)])
def test_rates_of_dropout_follow_from_the_passes_of_the_budget(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, budget: str, known_after: int
) -> None:
    """Of 60 steps, with enough of them to know the speed after the sixth; a resumed run has the same rates."""
    monkeypatch.setattr(char, "DROPOUT_PER_PASS", 0.01)

    def make(**options: Any) -> TextGenerator:
        return timed(_task(**options), monkeypatch)

    def task_rate(task: TextGenerator) -> float:
        return round(0.01 * passes * math.sqrt(task.model.num_parameters() / task._train.tokens.size), 3)

    task = make()
    passes = 60 / task.num_batches
    rate = task_rate(task)
    assert 0.001 < rate < 0.5
    first = task.model.config["dropout"]
    assert first == 0.5  # what the size of so short a text lets expect
    config = TrainingConfig(**{budget: {"steps": 60, "epochs": passes, "minutes": 1}[budget]})  # type: ignore[arg-type]
    trainer = Trainer(task, config, tmp_path)
    rates = []
    for step in trainer.fit():
        rates.append((task.model.dropout.p, task.model.rnn.dropout, task.model.rnn.weight_drop))
        if step.step == 30:
            trainer.stop()
    assert rates == [(first,) * 3] * max(0, known_after - 1) + [(rate,) * 3] * (30 - max(0, known_after - 1))
    assert trainer.position.passes == pytest.approx(passes)
    saved = checkpoint.load_config(tmp_path / LAST)
    assert (saved["model"]["dropout"], saved["model"]["weight_drop"]) == (rate, rate)

    monkeypatch.setattr(char, "DROPOUT_PER_PASS", 0.02)  # of another version
    resumed = Trainer(make(), config, tmp_path, resume=True)
    assert resumed.task.model.config == saved["model"]
    steps = resumed.fit()
    assert [next(steps).step for _ in range(10)] == list(range(31, 41))
    assert resumed.task.model.config == saved["model"]
    resumed = Trainer(make(), TrainingConfig(steps=30), tmp_path, resume=True)  # half of the budget
    assert resumed.task.model.config["dropout"] == pytest.approx(rate, abs=1e-3)
    monkeypatch.setattr(char, "DROPOUT_PER_PASS", 0.01)

    arrays, description = checkpoint.load(tmp_path / LAST)  # of a version whose rates followed from the text's size
    del description["position"]["passes"]
    description["model"] |= {"dropout": 0.25, "weight_drop": 0.25}
    checkpoint.save(tmp_path / LAST, arrays, description)
    old = Trainer(make(), config, tmp_path, resume=True)
    next(old.fit())
    assert old.task.model.config["dropout"] == (0.25 if budget == "minutes" else rate)  # until the speed is known

    for options, expected in (
        ({"dropout": 0.1}, (0.1, rate)),
        ({"weight_drop": 0.1}, (rate, 0.1)),
        ({"cell": "min_gru"}, None),
    ):
        task = make(**options)
        Trainer(task, TrainingConfig(steps=60))
        found = task.model.config["dropout"], task.model.config["weight_drop"]
        assert found == (expected or (task_rate(task), 0))  # min_gru has no weights to drop
    task = make(dropout=0.2, weight_drop=0.0)
    run(Trainer(task, TrainingConfig(steps=3)))
    assert (task.model.config["dropout"], task.model.config["weight_drop"]) == (0.2, 0)


def test_patience_stops_after_evaluations_without_improvement_and_resumes_with_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def trainer(patience: int, resume: bool = False) -> Trainer:
        task = _task(dropout=0.5, weight_drop=0.5)
        losses = iter([2.0, 1.0, 3.0, 3.0, 3.0, 3.0] if not resume else [0.5, 1.0, 1.0, 1.0])
        task.evaluate = lambda: {"val_loss": next(losses)}  # type: ignore[method-assign]
        return Trainer(task, TrainingConfig(steps=20, evaluations=10, patience=patience), tmp_path, resume)

    first = trainer(2)
    assert [step.step for step in run(first)][-1] == 8
    assert first.finished
    assert caplog.messages == ["stopped early: no better validation loss in 2 evaluations"]
    resumed = trainer(3, resume=True)
    assert not resumed.finished
    assert [step.step for step in run(resumed) if step.metrics] == [10, 12, 14, 16]


def _scored(scores: list[float]) -> TextGenerator:
    """A task whose best state has the highest ``f1``, while its loss rises."""
    task, results = _task(dropout=0.5, weight_drop=0.5), iter(enumerate(scores))
    task.best_metric, task.best_mode = "f1", "max"
    task.evaluate = lambda: dict(zip(("val_loss", "f1"), next(results), strict=True))  # type: ignore[method-assign]
    return task


def test_a_task_says_which_metric_chooses_the_best_state(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    options = {"steps": 20, "evaluations": 10}
    steps = run(Trainer(_scored([-1.0, 0.5, math.nan, 0.4]), TrainingConfig(patience=2, **options), tmp_path))
    assert [s.best for s in steps if s.metrics] == [True, True, False, False]
    assert caplog.messages == ["stopped early: no better f1 in 2 evaluations"]
    assert checkpoint.load_config(tmp_path / BEST)["position"]["best"] == {"f1": 0.5}
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [line["f1"] for line in lines if "f1" in line] == [-1, 0.5, None, 0.4]

    resumed = Trainer(_scored([0.5]), TrainingConfig(patience=3, **options), tmp_path, resume=True)
    assert [s.best for s in run(resumed) if s.metrics] == [False]
    resumed = Trainer(_scored([0.6, 0.6, 0.55, 0.7, 0.1]), TrainingConfig(**options), tmp_path, resume=True)
    assert [s.best for s in run(resumed) if s.metrics] == [True, False, False, True, False]
    assert checkpoint.load_config(tmp_path / BEST)["position"]["best"] == {"f1": 0.7}


@pytest.mark.parametrize(("metric", "best"), [("val_loss", [False, True]), ("f1", [True, True])])
def test_the_best_loss_of_a_run_of_0_2_is_kept_where_the_loss_still_decides(
    metric: str, best: list[bool], tmp_path: Path
) -> None:
    run(Trainer(_task(), TrainingConfig(steps=2), tmp_path))
    arrays, config = checkpoint.load(tmp_path / LAST)
    del config["position"]["best"]
    checkpoint.save(tmp_path / LAST, arrays, config | {"position": config["position"] | {"best_loss": 0.5}})
    task, losses = _task(), iter([(1.0, 0.1), (0.4, 0.2)])
    task.evaluate = lambda: dict(zip(("val_loss", "f1"), next(losses), strict=True))  # type: ignore[method-assign]
    task.best_metric, task.best_mode = metric, "min" if metric == "val_loss" else "max"
    steps = run(Trainer(task, TrainingConfig(steps=6, evaluations=3), tmp_path, resume=True))
    assert [s.best for s in steps if s.metrics] == best


def test_learning_rate_rises_then_falls_to_the_end_of_the_budget() -> None:
    config = TrainingConfig(steps=40, lr=0.5, warmup=0.1, final_lr=0.2)
    rates = [step.lr for step in Trainer(_task(), config).fit()]
    assert rates[2] == pytest.approx(0.25)
    assert max(rates) == rates[4] == pytest.approx(0.5)
    assert rates[22] == pytest.approx(0.3)  # half way down from 0.5 to 0.1
    assert rates[-1] == pytest.approx(0.1, rel=0.02)
    assert TrainingConfig(epochs=2).progress(7, 0.5, 99) == 0.25
    assert TrainingConfig(minutes=2).progress(7, 0.5, 30) == 0.25
    assert TrainingConfig(steps=7).progress(9, 0.5, 30) == 1


def test_steps_epochs_and_minutes_end_training(tmp_path: Path) -> None:
    task = _task()
    assert len(run(Trainer(task, TrainingConfig(steps=5)))) == 5
    assert len(run(Trainer(_task(), TrainingConfig(epochs=1)))) == task.num_batches
    trainer = Trainer(_task(), TrainingConfig(minutes=0.01))
    assert run(trainer)[-1].metrics  # the last step is evaluated, also where the evaluation uses up the budget
    assert trainer.position.seconds >= 0.6


def test_steps_with_nan_loss_are_skipped() -> None:
    """They change nothing; 20 in a row end the run."""
    task = _task()
    trainer = Trainer(task, TrainingConfig(steps=100))
    task.model.embedding.weight.data[0] = np.nan
    before = task.model.state_dict()
    with pytest.raises(DivergedError, match=r"for 20 steps in a row; use a smaller lr \(it was 0.004\)"):
        run(trainer)
    trainer = Trainer(task, TrainingConfig(steps=10))
    lines = [step.line() for step in trainer.fit()]
    assert [line["grad_norm"] for line in lines] == [line["train_loss"] for line in lines] == [None] * 10
    json.dumps(lines, allow_nan=False)
    assert task.state_dict() == {}
    for name, array in task.model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one budget of steps, epochs, minutes, got none"),
        ({"steps": 3, "minutes": 2.0}, "got steps, minutes"),
        ({"steps": 0}, "steps: expected an int of at least 1, got 0"),
        ({"minutes": math.inf}, "minutes: expected a finite number, got inf"),
        ({"steps": 1, "lr": math.nan}, "lr: expected a number above 0, got nan"),
        ({"steps": 1, "optimizer": "lion"}, "optimizer: expected one of adam, adamw"),
        ({"steps": 1, "precision": "fp16"}, "precision: expected one of fp32, bf16, got 'fp16'"),
        ({"steps": 1, "clip": -1}, "clip: expected a number of at least 0, got -1"),
        ({"steps": 1, "patience": 0}, "patience: expected an int of at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TrainingConfig(**options)


def _multiply_loss(task: TextGenerator, step: int, count: int, value: float = math.nan) -> None:
    """Multiply the loss by ``value`` in ``count`` steps from ``step`` on."""
    loss, calls = task.loss, iter(range(10**6))

    def multiplied(number: int, progress: float) -> tuple[mr.Tensor, int]:
        mean, tokens = loss(number, progress)
        return (mean * value if step <= next(calls) < step + count else mean), tokens

    task.loss = multiplied  # type: ignore[method-assign]


def test_a_step_with_an_exploding_loss_is_skipped() -> None:
    task = _task()
    _multiply_loss(task, 5, 1, value=1e4)
    steps = run(Trainer(task, TrainingConfig(steps=8)))
    assert [step.skipped for step in steps] == [0, 0, 0, 0, 0, 1, 0, 0]


def test_after_many_skipped_steps_training_rolls_back_and_halves_the_learning_rate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = _task()
    _multiply_loss(task, 12, 20)
    trainer = Trainer(task, TrainingConfig(steps=40, save_every=10, evaluations=1, log_every=1), tmp_path)
    steps = run(trainer)
    assert trainer.position.step == 40
    assert trainer.position.rollbacks == 1
    back = next(n for n, step in enumerate(steps) if step.rolled_back)
    assert caplog.messages == ["no usable loss for 20 steps: rolled back to step 10, with 0.5 times the learning rate"]
    assert [step.step for step in steps[back - 1 : back + 2]] == [31, 10, 11]
    assert steps[back + 1].lr == pytest.approx(trainer.schedule.lr_at(10 / 40) / 2)
    assert steps_of(tmp_path) == list(range(1, 41))


def test_training_rolls_back_at_most_three_times(tmp_path: Path) -> None:
    task = _task()
    _multiply_loss(task, 3, 10**6)
    with pytest.raises(DivergedError, match="rolling back to a saved state 3 times did not help"):
        run(Trainer(task, TrainingConfig(steps=1000, evaluations=1), tmp_path))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk that cannot be written to while ``full``, and is tried again at once."""
    disk = SimpleNamespace(full=False)
    write, opened = checkpoint.write_atomically, open

    def check() -> None:
        if disk.full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def write_atomically(*args: Any) -> None:
        check()
        write(*args)

    def open_file(path: Any, mode: str) -> Any:
        check()
        return opened(path, mode)

    monkeypatch.setattr("minirnn.runs.RETRY_SECONDS", 0)
    monkeypatch.setattr(checkpoint, "write_atomically", write_atomically)
    monkeypatch.setattr("minirnn.runs.open", open_file, raising=False)
    return disk


def test_training_survives_a_disk_that_fails_for_a_while(
    tmp_path: Path, disk: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    """What could not be written is written later, once."""
    for step in Trainer(_task(), TrainingConfig(steps=30, evaluations=6, log_every=1), tmp_path).fit():
        disk.full = 7 <= step.step < 22
    assert caplog.messages == [
        f"cannot write to {tmp_path}: No space left on device; training continues and will retry to save",
        f"{tmp_path} can be written to again; everything is saved",
    ]
    assert steps_of(tmp_path) == list(range(1, 31))
    assert checkpoint.load(tmp_path / LAST)[1]["position"]["step"] == 30
    assert (tmp_path / BEST).exists()


def test_metrics_are_trimmed_after_rolling_back_on_a_full_disk(tmp_path: Path, disk: SimpleNamespace) -> None:
    task = _task()
    _multiply_loss(task, 12, 20)
    trainer = Trainer(task, TrainingConfig(steps=40, save_every=10, evaluations=1, log_every=1), tmp_path)
    for count, _ in enumerate(trainer.fit()):
        disk.full = 20 <= count < 36
    assert (trainer.position.step, trainer.position.rollbacks) == (40, 1)
    assert steps_of(tmp_path) == list(range(1, 41))


def test_a_disk_that_fails_to_the_end_raises_save_error(tmp_path: Path, disk: SimpleNamespace) -> None:
    steps = Trainer(_task(), TrainingConfig(steps=10, evaluations=2), tmp_path).fit()
    for _ in range(7):
        next(steps)
    disk.full = True
    with pytest.raises(SaveError, match=r"could not be saved in .*; last.safetensors holds the last state that was "):
        list(steps)
    assert checkpoint.load(tmp_path / LAST)[1]["position"]["step"] == 5


def test_a_damaged_last_state_is_replaced_by_the_previous_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = TrainingConfig(steps=12, save_every=4, evaluations=1)
    whole = Trainer(_task(), config, tmp_path / "whole")
    run(whole)
    run(Trainer(_task(), config, tmp_path / "cut"), 8)
    path = tmp_path / "cut" / LAST
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 4
    path.write_bytes(damaged)
    again = Trainer(_task(), config, tmp_path / "cut", resume=True)
    (message,) = caplog.messages
    assert "does not match its checksum; continuing from previous.safetensors" in message
    assert again.position.step in (4, 8)
    run(again)
    for name, array in whole.task.model.state_dict().items():
        np.testing.assert_array_equal(again.task.model.state_dict()[name], array)
    (tmp_path / "cut" / PREVIOUS).write_bytes(b"nothing")
    path.write_bytes(b"nothing either")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        Trainer(_task(), config, tmp_path / "cut", resume=True)
