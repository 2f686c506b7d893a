"""The one place that executes generated source.

The source is this package's own text around numbers: it contains no name of a cell and nothing read from a file.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Mapping
from typing import Any


def build_function(name: str, source: str, names: Mapping[str, Any], label: str) -> Callable[..., Any]:
    """The function ``name`` that ``source`` defines, closed over those of ``names`` that it uses.

    A closure, because the kernel cache tells functions apart by their code and by what they are closed over.

    Args:
        label: what the function is called in messages, tracebacks and the kernel cache.
    """
    used = [one for one in names if re.search(rf"\b{one}\b", source)]
    body = "".join(f"    {line}\n" for line in source.splitlines())
    text, filename = f"def make({', '.join(used)}):\n{body}    return {name}\n", f"<generated {label}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(True), filename)
    scope: dict[str, Any] = {"__name__": __name__}
    exec(compile(text, filename, "exec"), scope)
    function = scope["make"](*(names[one] for one in used))
    function.__qualname__ = function.__name__ = label
    return function
