"""Keep, query and compare training-data attributions of language models in one DuckDB file."""

from attrstore.errors import AttrstoreError, InputError, MismatchError, StoreError
from attrstore.store import Store, open

__version__ = "0.1.0"
__all__ = ["AttrstoreError", "InputError", "MismatchError", "Store", "StoreError", "__version__", "open"]
