"""The page over HTTP: its files, and four questions that its script asks. Work happens in threads, errors become one readable line."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler

from ..call_errors import AccessError, CallError, ImageFileError, TilesError, TransientError
from ..errors import ClientError
from ..picture import PictureLimits
from .analysis import Analysis, analyze
from .errors import AskedError
from .guard import make_guard, own_hosts
from .models import Models
from .slides import Place, SlideFolder
from .sources import Picture, picture_of_file
from .wire import analysis_json, offer_json, overview_json

STATIC = Path(__file__).parent / "static"
MAX_BYTES = 2**28  # a PNG of the largest image, and more
_AT_ONCE = 2  # images at work; each takes a multiple of its pixels

MODELS, SLIDES, REGION, IMAGE = "/api/models", "/api/slides", "/api/region", "/api/image"

Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


def make_app(models: Models, slides: SlideFolder | None, address: str, port: int) -> web.Application:
    """The application for that address and port; whoever made models and slides closes them.

    Args:
        slides: None = images alone.
    """
    page = _Page(models, slides)
    app = web.Application(middlewares=[make_guard(own_hosts(address, port)), tell_errors], client_max_size=MAX_BYTES)
    app.router.add_get("/", page.index)
    app.router.add_get(MODELS, page.models)
    app.router.add_get(SLIDES, page.slide_names)
    app.router.add_get(SLIDES + "/{name}", page.slide)
    app.router.add_post(IMAGE, page.image)
    app.router.add_post(REGION, page.region)
    app.router.add_static("/static", STATIC)
    return app


class _Page:
    """The handlers."""

    def __init__(self, models: Models, slides: SlideFolder | None) -> None:
        self._models = models
        self._slides = slides
        self._limits = PictureLimits()
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def index(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(STATIC / "index.html")

    async def models(self, request: web.Request) -> web.Response:
        offers = await asyncio.to_thread(self._models.offers)
        facts = {"server": self._models.server, "max_px": self._limits.max_px, "has_slides": self._slides is not None}
        return web.json_response(facts | {"models": [offer_json(offer) for offer in offers]})

    async def slide_names(self, request: web.Request) -> web.Response:
        return web.json_response({"slides": await asyncio.to_thread(self._folder.names)})

    async def slide(self, request: web.Request) -> web.Response:
        overview = await asyncio.to_thread(self._folder.overview, request.match_info["name"])
        return web.json_response(await asyncio.to_thread(overview_json, overview))

    async def image(self, request: web.Request) -> web.Response:
        """Body: the file. Query: model, mpp."""
        data, mpp = await request.read(), number_or_none(request.query.get("mpp"), "µm per pixel")
        return await self._analyze(request, lambda wanted_mpp: picture_of_file(data, mpp, wanted_mpp, self._limits))

    async def region(self, request: web.Request) -> web.Response:
        """Query: model, slide, x, y, side_px, mpp."""
        place, name, folder = place_of(request), request.query.get("slide", ""), self._folder
        return await self._analyze(request, lambda wanted_mpp: folder.picture(name, place, wanted_mpp, self._limits))

    async def _analyze(self, request: web.Request, read: Callable[[float], Picture]) -> web.Response:
        name = request.query.get("model", "")

        def work() -> dict[str, Any]:
            offer = self._models.offer(name)
            analysis: Analysis = analyze(offer, self._models.client(name), read(offer.contract.task.mpp))
            return analysis_json(analysis)

        async with self._room:
            return web.json_response(await asyncio.to_thread(work))

    @property
    def _folder(self) -> SlideFolder:
        if self._slides is None:
            raise AskedError(
                "slides: expected a folder of them, the page was started without: add --ui-slides FOLDER to `histoserve serve`"
            )
        return self._slides


@web.middleware
async def tell_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as JSON with one line for people; what is our bug is also logged."""
    try:
        return await handler(request)
    except ClientError as error:
        flags = "; the page takes them with --tls-ca, --tls-cert, --tls-key and --headers" if isinstance(error, AccessError) else ""
        return web.json_response({"error": " ".join(str(error).split()) + flags}, status=status_of(error))
    except web.HTTPRequestEntityTooLarge:
        return web.json_response(
            {"error": f"image: expected a file of at most {MAX_BYTES >> 20} MiB, got a larger one: cut it"}, status=413
        )
    except web.HTTPException:
        raise
    except ConnectionResetError:  # the browser left while it was sending: nobody reads this
        return web.json_response({"error": "image: expected all of the file, the connection ended before"}, status=400)
    except Exception as error:  # noqa: BLE001 (whatever it is, the next question is answered)
        _log.exception("%s %s", request.method, request.path)
        return web.json_response({"error": f"the page failed on this ({type(error).__name__}): its log says more"}, status=500)


def status_of(error: ClientError) -> int:
    """400 = what was asked, 503 = try again, 502 = the server behind the page."""
    if isinstance(error, TransientError):
        return 503
    return 502 if isinstance(error, CallError) and not isinstance(error, (ImageFileError, TilesError)) else 400


def place_of(request: web.Request) -> Place:
    """The square of a query.

    Raises:
        AskedError: a value is missing or no number.
    """
    values = {key: number_or_none(request.query.get(key), key) for key in ("x", "y", "side_px")}
    x, y, side_px = values["x"], values["y"], values["side_px"]
    if x is None or y is None or side_px is None:
        raise AskedError(f"region: expected x, y and side_px, got {', '.join(key for key in values if values[key] is not None) or 'none'}")
    return Place(x, y, round(side_px), number_or_none(request.query.get("mpp"), "µm per pixel"))


def number_or_none(text: str | None, what: str) -> float | None:
    """
    Raises:
        AskedError: there is something else than a finite number.
    """
    if text is None or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise AskedError(f"{what}: expected a number, got {text!r}")
    return value
