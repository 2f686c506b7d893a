"""Sphinx configuration. Build with ``sphinx-build -W -b html docs docs/_build/html`` (extra: docs).

Nothing is loaded from the network, neither by the build nor by the pages: no web fonts, no MathJax, no intersphinx.
``-D plot_gallery=0`` builds without running the examples.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "examples")]

import minirnn  # noqa: E402

project = "minirnn"
copyright = author = "The minirnn authors"
version = release = minirnn.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon",
              "sphinx.ext.viewcode", "sphinx_gallery.gen_gallery"]  # fmt: skip
exclude_patterns = ["_build", "README.md"]
templates_path = ["_templates"]
nitpicky = False

myst_heading_anchors = 3
autosummary_generate = True
autosummary_imported_members = True
autodoc_typehints = "none"  # signatures stay short; the shapes and types are in the text
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_param = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"minirnn {release}"
html_static_path = ["_static"]
html_copy_source = False
html_show_sphinx = False

# ------------------------------------------------------------------------------------------------- examples

EXAMPLE_BUDGETS = {
    "adding_problem.py": ["--length", "40", "--steps", "600"],
    "draw_digit.py": [],
    "feed_forward.py": [],
    "generate_text.py": ["--minutes", "0.15", "--hidden", "128"],
    "melody.py": [],
    "own_cell.py": ["--steps", "60"],
    "own_operation.py": [],
    "pos_tags.py": ["--epochs", "3"],
    "read_digits.py": ["--epochs", "3"],
    "sentiment.py": ["--epochs", "3"],
    "stacked_bidirectional.py": ["--steps", "300"],
    "translation.py": ["--steps", "150"],
    "vanishing_gradient.py": [],
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


sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "examples",
    "filename_pattern": r"/[a-z]\w+\.py$",
    "ignore_pattern": r"/_\w+\.py$",
    "reset_argv": ExampleArguments(),
    "show_memory": False,
    "min_reported_time": 1e9,
    "download_all_examples": False,
    "abort_on_example_error": True,
    "remove_config_comments": True,
}
suppress_warnings = ["config.cache"]
