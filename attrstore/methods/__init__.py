"""Scoring methods by name. To add one, write a file beside this and add its METHOD here."""

from attrstore.methods.base import Method, Ranking, Request

METHODS: dict[str, Method] = {}

__all__ = ["METHODS", "Method", "Ranking", "Request"]
