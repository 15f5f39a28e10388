"""A folder of files: of this machine's file system, or at a URL that fsspec knows, such as s3://bucket/shards."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol
from uuid import uuid4

from attrstore.errors import AttrstoreError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

EXTRAS = ("s3", "s3a")  # whose file system is the extra [s3]; other protocols have packages of their own


class Folder(Protocol):
    """What is done with the files of a folder; its text is what messages call it."""

    def make(self) -> None:
        """Make it if it is not there."""

    def sizes(self) -> dict[str, int] | None:
        """Return its files' sizes in bytes, by name; None where there is no such folder."""

    def open(self, name: str) -> BinaryIO:
        """Open a file to read."""

    def put(self, name: str, content: bytes) -> None:
        """Write a file, which appears whole or not at all."""

    def called(self, name: str) -> str:
        """What messages call a file."""


def folder_at(place: str | Path) -> Folder:
    """Return the folder at a path or URL. `InputError` says where no package for the URL is installed."""
    return Remote(str(place)) if "://" in str(place) else Local(Path(place).absolute(), str(place))


class Local:
    """A folder of this machine's file system."""

    def __init__(self, path: Path, named: str) -> None:
        self.path, self.named = path, named

    def __str__(self) -> str:
        return self.named

    def make(self) -> None:
        """See `Folder`."""
        self.path.mkdir(parents=True, exist_ok=True)

    def sizes(self) -> dict[str, int] | None:
        """See `Folder`."""
        if not self.path.is_dir():
            return None
        return {file.name: file.stat().st_size for file in sorted(self.path.iterdir()) if file.is_file()}

    def open(self, name: str) -> BinaryIO:
        """See `Folder`."""
        return (self.path / name).open("rb")

    def put(self, name: str, content: bytes) -> None:
        """Give the file its name once its bytes are on the disk."""
        temporary = self.path / f".{uuid4().hex}.tmp"
        try:
            with temporary.open("wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, self.path / name)
        finally:
            temporary.unlink(missing_ok=True)

    def called(self, name: str) -> str:
        """See `Folder`."""
        return str(Path(self.named) / name)


class Remote:
    """A folder at a URL. On object stores a put is whole or not at all; the settings are those of fsspec's package."""

    def __init__(self, url: str) -> None:
        self.named = url.rstrip("/")
        self._system()

    def __str__(self) -> str:
        return self.named

    def _system(self) -> tuple[Any, str]:
        """Return the file system and its name for the folder; fsspec keeps the system, in each process its own."""
        protocol = self.named.partition("://")[0]
        try:
            import fsspec

            system, path = fsspec.core.url_to_fs(self.named)
        except ImportError as error:
            package = 'pip install "attrstore[s3]"' if protocol in EXTRAS else str(error)
            raise InputError(
                f"{self.named}: the package for {protocol}:// is not installed: {package}"
            ) from error
        except ValueError as error:
            raise InputError(f"{self.named}: no such folder. {error}") from error
        return system, path

    @contextmanager
    def _named(self, doing: str) -> Iterator[tuple[Any, str]]:
        system, path = self._system()
        try:
            yield system, path
        except Exception as error:  # of whatever package the protocol has
            raise AttrstoreError(
                f"{self.named}: {doing}. {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            ) from error

    def make(self) -> None:
        """Nothing: it is there with its first file."""

    def sizes(self) -> dict[str, int] | None:
        """See `Folder`."""
        with self._named("cannot be listed") as (system, path):
            system.invalidate_cache()
            try:
                found = system.ls(path, detail=True)
            except FileNotFoundError:
                return None
        files = {one["name"].rsplit("/", 1)[-1]: one["size"] for one in found if one["type"] == "file"}
        return {name: files[name] for name in sorted(files)}

    def open(self, name: str) -> BinaryIO:
        """See `Folder`."""
        with self._named(f"{name} cannot be read") as (system, path):
            opened: BinaryIO = system.open(f"{path}/{name}", "rb")
        return opened

    def put(self, name: str, content: bytes) -> None:
        """See `Folder`."""
        with self._named(f"{name} cannot be written") as (system, path):
            system.pipe_file(f"{path}/{name}", content)

    def called(self, name: str) -> str:
        """See `Folder`."""
        return f"{self.named}/{name}"
