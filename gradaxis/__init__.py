"""gradaxis: every policy-gradient method as one equation with two factors, made executable and measurable.

`gradaxis.load_registry()` answers questions about methods; `gradaxis.compile("dapo")` builds the estimator of one. Both
are loaded when they are first used, so that `import gradaxis` brings in no tensor library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradaxis.estimators import compile
    from gradaxis.taxonomy import Method, Registry, load_registry

__version__ = "0.1.0"
__all__ = ["Method", "Registry", "__version__", "compile", "load_registry"]

_HOMES = {
    "compile": "gradaxis.estimators",
    "Method": "gradaxis.taxonomy",
    "Registry": "gradaxis.taxonomy",
    "load_registry": "gradaxis.taxonomy",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'gradaxis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
