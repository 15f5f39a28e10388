"""Scoring methods by name. To add one, write a file beside this and name its Method here."""

from attrstore.methods.base import Method, Ranking, Request
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

__all__ = ["METHODS", "Method", "Ranking", "Request"]
