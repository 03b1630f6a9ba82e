"""Who may talk to the page: this machine's own browser, from the page itself. Knows no model.

A name of somebody else's can be made to point here (DNS rebinding), and any site can send forms here: so Host and Origin are checked.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_HTTP_PORT = 80  # which browsers leave out


def own_hosts(address: str, port: int) -> frozenset[str]:
    """What a browser that was sent here by its user calls this server."""
    names = {f"[{address}]" if ":" in address else address, "localhost", "127.0.0.1", "[::1]"}
    return frozenset({f"{name}:{port}" for name in names} | (names if port == _HTTP_PORT else set()))


def make_guard(hosts: frozenset[str]) -> Middleware:
    """A middleware that answers 403 to strangers, and puts `HEADERS` on every answer."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        reason = refusal(hosts, request.headers.get("Host"), request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site"))
        try:
            response = await handler(request) if reason is None else web.json_response({"error": reason}, status=403)
        except web.HTTPException as error:
            error.headers.update(HEADERS)
            raise
        response.headers.update(HEADERS)
        return response

    return guard


def refusal(hosts: frozenset[str], host: str | None, origin: str | None, fetch_site: str | None) -> str | None:
    """Why a request is not for us; None where it is."""
    if host is None or host.lower() not in hosts:
        return f"Host: expected one of {', '.join(sorted(hosts))}, got {host!r}: open the page under its own address"
    if origin is not None and origin.lower().removeprefix("http://") not in hosts:
        return f"Origin: expected the page itself, got {origin!r}: other sites may not use it"
    if fetch_site not in (None, "same-origin", "none"):
        return f"Sec-Fetch-Site: expected the page itself, got {fetch_site!r}: type the page's address instead of following a link"
    return None
