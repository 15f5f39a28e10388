"""Scoring methods by name. To add one, write a file beside this and name its Method here.

Another package adds its own as entry points of the group `attrstore.methods`, each a `Method`.
"""

from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points

from attrstore.errors import AttrstoreError, InputError
from attrstore.methods.base import Method, Ranking, Reads, Request
from attrstore.methods.bm25 import METHOD as BM25
from attrstore.methods.dense import DENSE
from attrstore.methods.gradient import GRADIENT_METHODS
from attrstore.methods.inverse import INVERSE_METHODS
from attrstore.methods.less import LESS
from attrstore.methods.mirrored import MIRRORED
from attrstore.methods.repsim import REPSIM
from attrstore.methods.tracincp import TRACINCP

METHODS: dict[str, Method] = {
    method.name: method
    for method in (*GRADIENT_METHODS, *INVERSE_METHODS, TRACINCP, LESS, MIRRORED, REPSIM, BM25, DENSE)
}

__all__ = ["METHODS", "Method", "Ranking", "Reads", "Request", "every_method", "find"]


def every_method() -> dict[str, Method]:
    """Return the methods by name: those of attrstore, then those that other installed packages bring.

    Raises `AttrstoreError` that names the package whose method cannot be loaded.
    """
    return METHODS | _installed()


@cache
def _installed() -> dict[str, Method]:
    found: dict[str, Method] = {}
    for entry in entry_points(group="attrstore.methods"):
        whose = f"the method {entry.name} of the package {entry.dist.name if entry.dist else '?'}"
        try:
            method = entry.load()
        except Exception as error:
            raise AttrstoreError(f"{whose}: cannot be loaded. {type(error).__name__}: {error}") from error
        if not isinstance(method, Method):
            raise AttrstoreError(f"{whose}: {entry.value} is no attrstore.methods.Method")
        if method.name in METHODS or method.name in found:
            raise AttrstoreError(f"{whose}: there is a method called {method.name} already")
        found[method.name] = method
    return found


def find(name: str) -> Method:
    """Return the method called `name`."""
    known = every_method()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? There" if near else "there"
        raise InputError(f"no method called {name}; {hint} are {', '.join(known)}")
    return known[name]
