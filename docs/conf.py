"""Sphinx configuration. Build with ``sphinx-build -W -b html docs docs/_build/html`` (extra: docs).

Nothing is loaded from the network, neither by the build nor by the pages: no web fonts, no MathJax, no intersphinx.
``-D plot_gallery=0`` builds without running the examples.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("", "cli", "docs", "examples")]

from generated_pages import ExampleArguments, escape_symbols, signature_of_init, write_commands  # noqa: E402
from pygments.lexers import TextLexer  # noqa: E402

import minirnn  # noqa: E402

project = "minirnn"
copyright = author = "The minirnn authors"
version = release = minirnn.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon",
              "sphinx_gallery.gen_gallery"]  # fmt: skip
exclude_patterns = ["_build", "reference/generated/commands.md"]
templates_path = ["_templates"]
smartquotes = False

myst_heading_anchors = 3
autosummary_generate = True
autosummary_imported_members = True
autodoc_typehints = "none"  # signatures stay short; the shapes and types are in the text
autodoc_member_order = "bysource"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # an attribute is described once, also where it has a value in the class

html_theme = "furo"
html_title = f"minirnn {release}"
html_static_path = ["_static"]
html_copy_source = False
html_show_sphinx = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "examples",
    "filename_pattern": r"/\w+\.py$",
    "ignore_pattern": r"^_",
    "reset_argv": ExampleArguments(),
    "show_memory": False,
    "write_computation_times": False,
    "download_all_examples": False,
    "abort_on_example_error": True,
    "remove_config_comments": True,
}
suppress_warnings = ["config.cache"]


def setup(app: Any) -> None:
    app.add_lexer("mermaid", TextLexer)  # diagrams are shown as their text; GitHub draws them
    app.connect("builder-inited", write_commands, priority=100)
    app.connect("autodoc-process-docstring", escape_symbols, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", signature_of_init)
