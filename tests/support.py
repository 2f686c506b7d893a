"""What several test files share."""

from minirnn.training import Step, Trainer


def run(trainer: Trainer, steps: int | None = None) -> list[Step]:
    """Train to the end, or stop after so many steps."""
    done = []
    for step in trainer.fit():
        done.append(step)
        if steps is not None and len(done) == steps:
            trainer.stop()
    return done
