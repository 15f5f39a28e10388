"""Scoring methods by name. To add one, write a file beside this and add its METHOD here."""

from attrstore.methods.base import Method, Ranking, Request
from attrstore.methods.gradient import GRADIENT_METHODS

METHODS: dict[str, Method] = {method.name: method for method in (*GRADIENT_METHODS,)}

__all__ = ["METHODS", "Method", "Ranking", "Request"]
