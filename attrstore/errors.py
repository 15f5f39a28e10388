"""What can go wrong, in the user's words: every message names the thing, the place and the fix."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class AttrstoreError(Exception):
    """The work failed; nothing already committed was lost."""

    exit_code = 1


class InputError(AttrstoreError):
    """The call or what it was given is wrong; the store is as it was."""

    exit_code = 2


class MismatchError(InputError):
    """Something differs from what the store was made with; the message shows both values."""


class StoreError(AttrstoreError):
    """The store cannot be opened or written."""


class HeldError(StoreError):
    """Another process has the store open."""


class OutputError(AttrstoreError):
    """What was to be printed cannot be written: stdout is closed or its disk full."""


class Interrupted(AttrstoreError):
    """The user stopped a job; what was committed stays, and the same command goes on."""

    exit_code = 1


IN_SHELL: ContextVar[bool] = ContextVar("in_shell", default=False)  # whether a command line is being served


def flag(name: str, argument: str | None = None) -> str:
    """Name an option as whoever gave it wrote it: `max_length` in Python, `--max-length` in a shell.

    Args:
        argument: its name in Python, where it is another.
    """
    return f"--{name.replace('_', '-')}" if IN_SHELL.get() else argument or name


# module: the extra of attrstore that brings it
EXTRAS = {
    "torch": "model",
    "transformers": "model",
    "safetensors": "model",
    "tokenizers": "model",
    "huggingface_hub": "model",
    "Stemmer": "stem",
    "peft": "lora",
    "gguf": "gguf",
    "ray": "ray",
    "accelerate": "offload",
}


@contextmanager
def extras_named() -> Iterator[None]:
    """Turn an import that fails for want of an extra into an error that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        raise InputError(
            f'needs {module}, which is not installed: pip install "attrstore[{EXTRAS[module]}]"'
        ) from error
