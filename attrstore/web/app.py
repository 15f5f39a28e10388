"""The server: addresses to pages, and errors to pages too."""

from __future__ import annotations

from contextlib import asynccontextmanager
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from attrstore.errors import AttrstoreError, InputError, StoreError
from attrstore.web.address import Address
from attrstore.web.ask_sql import sql_file, sql_page
from attrstore.web.example import example_page
from attrstore.web.frame import page
from attrstore.web.guard import Guard
from attrstore.web.lease import Lease
from attrstore.web.markup import el
from attrstore.web.overview import overview_page
from attrstore.web.parts import why_page
from attrstore.web.queries import queries_page
from attrstore.web.query import query_page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from starlette.requests import Request

    from attrstore.web.lease import Snapshot

    View = Callable[[Snapshot, Address], str]

VIEWS: dict[str, View] = {
    "/": queries_page,
    "/query": query_page,
    "/example": example_page,
    "/why": why_page,
    "/overview": overview_page,
    "/sql": sql_page,
}
FILES = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}
STATIC = {"style.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}


def application(path: Path, *, token: str, hosts: frozenset[str]) -> Starlette:
    """Return the ASGI application that shows the store at `path`.

    Args:
        path: the store.
        token: what the first address must bring.
        hosts: names with port under which it answers, as `127.0.0.1:8000`.
    """
    lease = Lease(path)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        lease.close()

    routes = [Route(address, _shown(lease, view)) for address, view in VIEWS.items()]
    routes += [Route(f"/sql.{kind}", _downloaded(path, kind)) for kind in FILES]
    routes.append(Route("/static/{name}", _static))
    guard = Middleware(Guard, token=token, hosts=hosts)
    return Starlette(routes=routes, middleware=[guard], lifespan=lifespan)


def _shown(lease: Lease, view: View) -> Callable[[Request], Response]:
    """Return the endpoint of a view; an expected error is a page that says what is wrong."""

    def endpoint(request: Request) -> Response:  # not async: Starlette runs it in a thread
        try:
            address = Address.read(request.query_params)
            with lease.open() as snapshot:
                if view is sql_page:  # what a query gives may change with the clock
                    return HTMLResponse(view(snapshot, address))
                made = snapshot.once("page", lambda _: view(snapshot, address), (request.url.path, address))
                return HTMLResponse(made)
        except AttrstoreError as error:
            return _failed(error, lease.path.name)

    return endpoint


def _downloaded(path: Path, kind: str) -> Callable[[Request], Response]:
    """Return the endpoint that gives the answer to a query as a file."""

    def endpoint(request: Request) -> Response:
        try:
            content = sql_file(path, Address.read(request.query_params), kind)
        except AttrstoreError as error:
            return _failed(error, path.name)
        named = {"Content-Disposition": f'attachment; filename="answer.{kind}"'}
        return Response(content, media_type=FILES[kind], headers=named)

    return endpoint


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
