"""Keep, query and compare training-data attributions of language models in one DuckDB file."""

from typing import TYPE_CHECKING, Any

from attrstore.errors import AttrstoreError, InputError, Interrupted, MismatchError, StoreError
from attrstore.store import Store, open

if TYPE_CHECKING:
    from attrstore.ingest.encode.recipes import EmbeddingRecipe, GradientRecipe, RepresentationRecipe

__version__ = "0.1.0"
__all__ = [
    "AttrstoreError",
    "EmbeddingRecipe",
    "GradientRecipe",
    "InputError",
    "Interrupted",
    "MismatchError",
    "RepresentationRecipe",
    "Store",
    "StoreError",
    "__version__",
    "open",
]


def __getattr__(name: str) -> Any:
    """Import a recipe when it is first asked for."""
    if name.endswith("Recipe") and name in __all__:
        from attrstore.ingest.encode import recipes

        return getattr(recipes, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
