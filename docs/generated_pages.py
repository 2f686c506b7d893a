"""What the documentation generates: the gallery of examples and the list of commands."""

from __future__ import annotations

import inspect
import os
import tempfile
from pathlib import Path
from typing import Any

EXAMPLE_BUDGETS = {
    "adding_problem.py": ["--length", "40", "--steps", "600"],
    "caption_shapes.py": ["--steps", "500"],
    "ctc_strings.py": [],
    "draw_digit.py": [],
    "feed_forward.py": [],
    "generate_text.py": ["--minutes", "0.15", "--hidden", "128"],
    "melody.py": [],
    "nearest_words.py": [],
    "online_learning.py": [],
    "own_cell.py": ["--steps", "60"],
    "own_operation.py": [],
    "pos_tags.py": ["--epochs", "3"],
    "question_answering.py": ["--steps", "1000"],
    "read_digits.py": ["--epochs", "3"],
    "sentiment.py": ["--epochs", "3"],
    "spoken_digits.py": ["--minutes", "0.2"],
    "stacked_bidirectional.py": ["--steps", "300"],
    "translation.py": ["--steps", "150"],
    "vanishing_gradient.py": [],
    "word_order.py": [],
}
"""The options with which the gallery runs each example, so that all of them take a minute or two; the results that the
examples' first lines state are those of their defaults."""

_PLOT = os.path.join(tempfile.mkdtemp(), "plot.png")


class ExampleArguments:
    """The command line of an example in the gallery."""

    def __repr__(self) -> str:
        return "ExampleArguments"

    def __call__(self, gallery_conf: dict[str, Any], variables: dict[str, Any]) -> list[str]:
        return [*EXAMPLE_BUDGETS[os.path.basename(variables["src_file"])], "--plot", _PLOT]


def write_commands(app: Any) -> None:
    """The options of all commands, from the Typer application, as a page for the reference."""
    import typer
    from minirnn_cli.main import app as minirnn_app

    folder = Path(__file__).parent / "reference" / "generated"
    folder.mkdir(exist_ok=True)
    commands = typer.main.get_command(minirnn_app).commands  # type: ignore[attr-defined]
    text = "\n".join(line for name, command in commands.items() for line in describe_command(name, command))
    (folder / "commands.md").write_text(text, encoding="utf-8")


def describe_command(name: str, command: Any) -> list[str]:
    """The lines of the page about a command and its subcommands."""
    lines = [f"## {name}", "", *(line.strip() for line in (command.help or "").splitlines()), ""]
    lines += ["| argument or option | default | |", "|---|---|---|"]
    for parameter in command.params:
        flags = ", ".join(f"`{flag}`" for flag in [*parameter.opts, *parameter.secondary_opts])
        shown = flags if parameter.param_type_name == "option" else f"`{parameter.human_readable_name}`"
        default = getattr(parameter.default, "value", parameter.default)
        if isinstance(parameter.show_default, str):
            default = parameter.show_default
        known = "" if default in (None, False, (), "") or callable(default) else f"`{default}`"
        help = " ".join((getattr(parameter, "help", None) or "").split()).replace("|", "\\|")
        lines.append(f"| {shown} | {known} | {help} |")
    for part, subcommand in getattr(command, "commands", {}).items():
        lines += ["", *describe_command(f"{name} {part}", subcommand)]
    return [*lines, ""]


def escape_symbols(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """In docstrings |x| is an absolute value and ``*`` a product or a starred name, neither is markup."""
    for number, line in enumerate(lines):
        parts = line.split("``")
        for n in range(0, len(parts), 2):  # outside of literals
            parts[n] = parts[n].replace("|", r"\|")
            if parts[n].count("*") % 2:
                parts[n] = parts[n].replace("*", r"\*")
        lines[number] = "``".join(parts)


def signature_of_init(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, None] | None:
    """Classes are shown with the arguments of ``__init__``, also where a base class has a ``__new__``."""
    if what != "class" or "__init__" not in vars(obj) or signature is None:
        return None
    parameters = list(inspect.signature(obj.__init__).parameters.values())[1:]
    return str(inspect.Signature([one.replace(annotation=one.empty) for one in parameters])), None
