"""Let in only who holds the token, on this machine, from this page; tell the browser to load nothing from elsewhere."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware. The token comes once in the URL and stays as a cookie that no other site can send."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: frozenset[str]) -> None:
        self.app = app
        self.token = token
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is let in, with the headers that every answer has."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self._refusal(Headers(scope=scope), scope["method"]) or self._unknown(Request(scope))
        await (answer or self.app)(scope, receive, send_guarded)

    def _refusal(self, headers: Headers, method: str) -> Response | None:
        """Refuse a name that is not this machine's (DNS rebinding) and a request that another page makes."""
        host = headers.get("host", "")
        if host not in self.hosts:
            return PlainTextResponse(f"Host {host!r} is not served here.\n", 421)
        origin = headers.get("origin")
        if origin not in (None, f"http://{host}") or (origin is None and method not in ("GET", "HEAD")):
            return PlainTextResponse(f"Requests from {origin!r} are not answered.\n", 403)
        return None

    def _unknown(self, request: Request) -> Response | None:
        """Take the token out of the URL into a cookie; send away who has neither."""
        # Cookies do not tell ports apart: two stores served at once need two names.
        cookie = f"attrstore-{request.headers['host'].rpartition(':')[2]}"
        given = request.query_params.get("token")
        if given is not None and hmac.compare_digest(given.encode(), self.token.encode()):
            rest = urlencode([(k, v) for k, v in request.query_params.multi_items() if k != "token"])
            answer = RedirectResponse(request.url.path + (f"?{rest}" if rest else ""), 303)
            answer.set_cookie(cookie, self.token, httponly=True, samesite="strict")
            return answer
        kept = request.cookies.get(cookie, "")
        if hmac.compare_digest(kept.encode(), self.token.encode()):
            return None
        return PlainTextResponse(
            "This page needs the address that `attrstore serve` printed, token included. Open that one.\n",
            403,
        )
