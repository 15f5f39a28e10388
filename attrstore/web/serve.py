"""Serve one store to the browsers of this machine."""

from __future__ import annotations

import secrets
import socket
from typing import TYPE_CHECKING

from attrstore.errors import HeldError, InputError
from attrstore.terminal import say_wrapped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ADDRESS = "127.0.0.1"


def serve(path: Path, *, port: int, opened: Callable[[str], None], model: Path | None = None) -> None:
    """Serve the store at `path` until interrupted; `opened` is called once with the address to open.

    Port 0 takes a free one. With a `model` the page also asks about what is not in the store.
    While another process writes, it says so and serves all the same.
    Raises `InputError` when the port is taken or the extra `web` is not installed.
    """
    try:
        import uvicorn

        from attrstore.web.app import application
    except ImportError as error:
        raise InputError("the page needs starlette and uvicorn: pip install 'attrstore[web]'") from error
    if model is not None and not model.exists():
        raise InputError(f"{model}: no such folder or file. Give the model that ingest read.")
    listening = _listen(port)
    port = listening.getsockname()[1]
    token = secrets.token_urlsafe(24)
    hosts = frozenset(f"{name}:{port}" for name in (ADDRESS, "localhost"))
    app = application(path, token=token, hosts=hosts, model=model)
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, ws="none")
    config.load()  # or the first page waits for it
    try:
        app.state.prepare()  # what is wrong with the store is said here, not on the page
    except HeldError as error:
        say_wrapped(f"{error} Pages come when it is done.", err=True)
    opened(f"http://{ADDRESS}:{port}/?token={token}")
    uvicorn.Server(config).run(sockets=[listening])


def _listen(port: int) -> socket.socket:
    # Only where TCP is named does asyncio turn off its waiting for more to send, 40 ms for each page.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((ADDRESS, port))
        listening.listen()  # whoever opens the address at once waits, and is not refused
    except OSError as error:
        listening.close()
        raise InputError(
            f"port {port}: {error.strerror}. Choose another with --port, or 0 for any."
        ) from error
    return listening
