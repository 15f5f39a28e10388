"""The server: addresses to pages, and errors to pages too."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from attrstore.errors import AttrstoreError, InputError, StoreError
from attrstore.web.address import Address
from attrstore.web.ask import ask_page
from attrstore.web.ask_sql import sql_file, sql_page
from attrstore.web.asking import Asker
from attrstore.web.example import example_page
from attrstore.web.frame import chosen_pair, page
from attrstore.web.guard import Guard
from attrstore.web.lease import PAGES, Lease
from attrstore.web.markup import el
from attrstore.web.overview import overview_page
from attrstore.web.parts import why_page
from attrstore.web.queries import queries_page
from attrstore.web.query import query_page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from concurrent.futures import Executor
    from pathlib import Path

    from starlette.requests import Request

    from attrstore.web.kept import Snapshot

    View = Callable[[Snapshot, Address], str]
    Endpoint = Callable[[Request], Awaitable[Response]]

VIEWS: dict[str, View] = {
    "/": queries_page,
    "/query": query_page,
    "/example": example_page,
    "/why": why_page,
    "/overview": overview_page,
}
QUERIES = 2  # threads for SQL
FILES = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}
STATIC = {"style.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}


def application(path: Path, *, token: str, hosts: frozenset[str], model: Path | None = None) -> Starlette:
    """Return the ASGI application that shows the store at `path`.

    Args:
        path: the store.
        token: what the first address must bring.
        hosts: names with port under which it answers, as `127.0.0.1:8000`.
        model: whom to ask about what is not in the store; nobody, if not given.
    """
    lease, asker = Lease(path), Asker(path, model) if model else None
    # SQL has its own threads, because it may take its full time.
    pages, queries = ThreadPoolExecutor(PAGES, "page"), ThreadPoolExecutor(QUERIES, "sql")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        for threads in (pages, queries):
            threads.shutdown()
        if asker:
            asker.stop()
        lease.close()

    routes = [Route(address, _shown(lease, view, pages)) for address, view in VIEWS.items()]
    routes.append(Route("/sql", _new(path.name, lambda address: _sql(lease, address), queries)))
    routes.append(Route("/ask", _new(path.name, lambda address: ask_page(lease, asker, address), pages)))
    routes += [Route(f"/sql.{kind}", _downloaded(path, kind, queries)) for kind in FILES]
    routes.append(Route("/static/{name}", _static))
    guard = Middleware(Guard, token=token, hosts=hosts)
    app = Starlette(routes=routes, middleware=[guard], lifespan=lifespan)
    app.state.prepare = partial(_prepare, lease, pages)
    return app


def _prepare(lease: Lease, threads: Executor) -> None:
    """Let each thread make a page before the first is asked for, so that nobody waits for what is done only once.

    Raises what is wrong with the store; what is wrong with one query is said on its page.
    """
    with lease.open() as snapshot:
        chosen_pair(snapshot, Address())
        names = snapshot.store.named("web", "first_queries", {"n": PAGES}).fetchall()

    def make(name: str) -> None:
        with lease.open() as snapshot:
            query_page(snapshot, Address(id=name))

    wait([threads.submit(make, name) for (name,) in names])


def _shown(lease: Lease, view: View, threads: Executor) -> Endpoint:
    """Return the endpoint of a view whose pages are kept as long as the file is as it was."""

    async def endpoint(request: Request) -> Response:
        def make() -> Response:
            address = Address.read(request.query_params)
            key = (request.url.path, address)
            with lease.open() as snapshot:
                return HTMLResponse(snapshot.once("page", lambda _: view(snapshot, address).encode(), key))

        with contextlib.suppress(InputError):  # which make() meets again
            kept = lease.kept_page((request.url.path, Address.read(request.query_params)))
            if kept is not None:
                return HTMLResponse(kept)
        return await _made(make, lease.path.name, threads)

    return endpoint


def _sql(lease: Lease, address: Address) -> str:
    with lease.open() as snapshot:
        return sql_page(snapshot, address)


def _new(name: str, view: Callable[[Address], str], threads: Executor) -> Endpoint:
    """Return the endpoint of a view of which nothing is kept: what it says changes with the clock."""

    async def endpoint(request: Request) -> Response:
        return await _made(lambda: HTMLResponse(view(Address.read(request.query_params))), name, threads)

    return endpoint


def _downloaded(path: Path, kind: str, threads: Executor) -> Endpoint:
    """Return the endpoint that gives the answer to a query as a file."""

    async def endpoint(request: Request) -> Response:
        def make() -> Response:
            content = sql_file(path, Address.read(request.query_params), kind)
            named = {"Content-Disposition": f'attachment; filename="answer.{kind}"'}
            return Response(content, media_type=FILES[kind], headers=named)

        return await _made(make, path.name, threads)

    return endpoint


async def _made(make: Callable[[], Response], name: str, threads: Executor) -> Response:
    """Return what is made in a thread; an expected error is a page that says what is wrong."""
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, make)
    except AttrstoreError as error:
        return _failed(error, name)


def _failed(error: AttrstoreError, name: str) -> Response:
    held = isinstance(error, StoreError) and "held by another process" in str(error)
    status = 503 if held else 400 if isinstance(error, InputError) else 500
    says = [el("h1", "Being written" if held else "This does not work"), el("p", str(error), class_="error")]
    if held:
        says.append(el("p", "This page comes back by itself when the writing is done.", data_retry=2))
    return HTMLResponse(page(None, Address(), "", says[0][4:-5], *says, name=name), status)


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        return Response("No such file.\n", 404, media_type="text/plain")
    content = files("attrstore.web").joinpath("static", name).read_bytes()
    return Response(content, media_type=STATIC[name], headers={"Cache-Control": "no-cache"})
