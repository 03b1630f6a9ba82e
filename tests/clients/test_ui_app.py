"""The page's answers over HTTP, on a server of Triton's protocol: what a browser gets, every refusal, and who is let in."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import re
from collections.abc import Awaitable, Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient
from PIL import Image

import clients.ui.app
from clients.ui.sources import png_of
from serving.port import free_port
from serving.tasks import get_task

from .painted import TILE_PX, paint, stripes, write_slide
from .token_triton import TOKEN, WholeModelWithToken
from .ui_fakes import WholeModel, page_on, unpacked

Page = TestClient[Any, Any]
HALVES = np.repeat(np.array([[1, 3]], np.uint8), 64, axis=1).repeat(96, axis=0)  # 96 rows; class 1 left, class 3 right


def on_page(task: Callable[[Page], Awaitable[None]], server: WholeModel | None = None, **options: Any) -> None:
    """Run a task on a page of its own."""

    async def run(address: str) -> None:
        async with page_on(address, **options) as page:
            await task(page)

    with server or WholeModel() as started:
        asyncio.run(run(started.address))


async def ask(page: Page, path: str, data: bytes | None = None, **query: Any) -> tuple[int, dict[str, Any]]:
    method, body = ("GET", None) if data is None else ("POST", BytesIO(data))
    async with page.request(method, path, data=body, params={key: str(value) for key, value in query.items()}) as got:
        return got.status, await got.json()


def test_models_with_their_classes_and_colors() -> None:
    async def task(page: Page) -> None:
        status, told = await ask(page, "/api/models")
        assert (status, told["has_slides"], told["max_px"]) == (200, False, 2**26)
        (model,) = told["models"]
        assert (model["name"], model["has_mask"], model["has_heat"], model["mpp"]) == ("painted", True, True, 0.5)
        assert model["classes"] == [{"name": tissue.name, "color": list(tissue.color)} for tissue in get_task("demo").classes]

    on_page(task)


def test_an_image_comes_back_with_mask_areas_heat_maps_and_scores() -> None:
    async def task(page: Page) -> None:
        status, told = await ask(page, "/api/image", png_of(paint(HALVES)), model="painted")
        assert (status, told["width"], told["height"], told["factor"]) == (200, 128, 96, 1)
        np.testing.assert_array_equal(unpacked(told["labels"]), HALVES)
        assert told["shares"] == [0, 0.5, 0, 0.5, 0]
        assert (told["area_mm2"], told["image_mpp"]) == (None, None)
        heat = unpacked(told["heat"]["maps"])
        assert heat.shape == (4, 24, 32)
        # CAM 1 × score 0.9, nothing elsewhere; halves of a level are the blend's last bit.
        expected = np.zeros((4, 24, 32))
        expected[0, :, :16] = expected[2, :, 16:] = 0.9 * 255
        np.testing.assert_allclose(heat, expected, atol=0.51)
        assert told["scores"] == pytest.approx([0.9, 0.1, 0.9, 0.1])
        assert min(told["segment_s"], told["cam_s"]) > 0

    on_page(task)


def test_the_picture_is_what_the_model_saw() -> None:
    """Also where the file asks to be shown turned: the model does not turn it."""
    file, turned = BytesIO(), Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(paint(HALVES)).save(file, "PNG", exif=turned)

    async def task(page: Page) -> None:
        _, told = await ask(page, "/api/image", file.getvalue(), model="painted")
        kind, _, encoded = told["picture"].partition(",")
        assert kind == "data:image/png;base64"
        np.testing.assert_array_equal(np.array(Image.open(BytesIO(base64.b64decode(encoded)))), paint(HALVES))

    on_page(task)


def test_areas_in_mm2_where_the_scale_is_told_and_resized_to_the_model_s() -> None:
    async def task(page: Page) -> None:
        _, same = await ask(page, "/api/image", png_of(paint(HALVES)), model="painted", mpp="0.5")
        assert same["area_mm2"] == pytest.approx(128 * 96 * 0.5**2 / 1e6)
        _, fine = await ask(page, "/api/image", png_of(paint(HALVES)), model="painted", mpp="0.25")
        assert (fine["width"], fine["height"], fine["image_mpp"]) == (64, 48, [0.5, 0.5])
        np.testing.assert_array_equal(unpacked(fine["labels"]), HALVES[::2, ::2])

    on_page(task)


@pytest.mark.parametrize(("kinds", "missing"), [(("segment",), ["heat", "scores", "cam_s"]), (("cam",), ["labels", "shares", "segment_s"])])
def test_a_model_with_one_entry_gives_what_it_has(kinds: Any, missing: list[str]) -> None:
    async def task(page: Page) -> None:
        status, told = await ask(page, "/api/image", png_of(paint(HALVES)), model="painted")
        assert status == 200
        assert sorted(key for key in ("labels", "shares", "segment_s", "heat", "scores", "cam_s") if told[key] is None) == sorted(missing)

    on_page(task, WholeModel(kinds))


@pytest.mark.parametrize(
    ("data", "query", "message"),
    [
        (b"no image", {"model": "painted"}, "image: expected the bytes of a JPEG or PNG file, got 8 bytes that begin with 6e 6f 20"),
        (png_of(paint(HALVES))[:-30], {"model": "painted"}, "it is damaged or cut off"),
        (png_of(paint(HALVES)), {"model": "lung"}, "model 'lung': expected one of painted"),
        (png_of(paint(HALVES)), {"model": "painted", "mpp": "half"}, "µm per pixel: expected a number, got 'half'"),
        (png_of(paint(HALVES)), {"model": "painted", "mpp": "nan"}, "µm per pixel: expected a number, got 'nan'"),
        (png_of(paint(HALVES)), {"model": "painted", "mpp": "40"}, "µm per pixel: expected 0.05…20, got 40"),
    ],
)
def test_what_does_not_fit_is_one_line_and_the_next_image_is_right(data: bytes, query: dict[str, str], message: str) -> None:
    async def task(page: Page) -> None:
        status, told = await ask(page, "/api/image", data, **query)
        assert status == 400
        assert message in told["error"]
        assert "\n" not in told["error"]
        _, right = await ask(page, "/api/image", png_of(paint(HALVES)), model="painted")
        np.testing.assert_array_equal(unpacked(right["labels"]), HALVES)

    on_page(task)


def test_a_tile_needs_no_entry_for_files() -> None:
    tile = np.full((TILE_PX, TILE_PX), 2, np.uint8)

    async def task(page: Page) -> None:
        status, told = await ask(page, "/api/image", png_of(paint(tile)), model="painted")
        assert (status, told["factor"]) == (200, 1)
        np.testing.assert_array_equal(unpacked(told["labels"]), tile)
        assert unpacked(told["heat"]["maps"]).shape == (4, 16, 16)

    server = WholeModel()
    on_page(task, server)
    assert [(model, count) for model, count, _ in server.requests] == [("painted_segment", 1), ("painted_cam", 1)]


def test_a_server_that_is_away_can_be_tried_again() -> None:
    async def run() -> None:
        async with page_on(f"127.0.0.1:{free_port()}") as page:
            status, told = await ask(page, "/api/models")
            assert status == 503
            assert "start a server with `histoserve serve`" in told["error"]

    asyncio.run(run())


def test_a_server_without_the_model_is_told() -> None:
    async def task(page: Page) -> None:
        status, told = await ask(page, "/api/models")
        assert status == 400
        assert "expected an entry of painted, the server has none" in told["error"]

    on_page(task, _OtherModels())


def test_models_come_and_go_and_their_release_is_that_of_now() -> None:
    """Of the list and of the server: what is in one of them alone is not offered."""
    names, server = ["painted_segment", "painted_cam"], WholeModel()

    async def offered(page: Page) -> dict[str, str]:
        return {model["name"]: model["release"] for model in (await ask(page, "/api/models"))[1]["models"]}

    async def task(page: Page) -> None:
        image = png_of(paint(HALVES))
        assert await offered(page) == {"painted": "painted_r1_segment"}
        names.append("later_segment")
        assert await offered(page) == {"painted": "painted_r1_segment"}  # listed, not served yet
        server.models.add("later")
        server.contracts = {kind: dataclasses.replace(one, release=f"painted_r2_{kind}") for kind, one in server.contracts.items()}
        assert await offered(page) == {"painted": "painted_r2_segment", "later": "painted_r2_segment"}
        assert (await ask(page, "/api/image", image, model="painted"))[1]["release"] == "painted_r2_segment"
        server.models.remove("painted")
        assert await offered(page) == {"later": "painted_r2_segment"}
        status, told = await ask(page, "/api/image", image, model="painted")
        assert (status, "the server has neither: choose another model" in told["error"]) == (400, True)
        del names[:2]
        status, told = await ask(page, "/api/image", image, model="painted")
        assert (status, told["error"]) == (400, "model 'painted': expected one of later: choose another model")

    on_page(task, server, names=lambda: names)


def test_a_model_that_is_not_ours_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    server = WholeModel()
    server.models, server.foreign = {"painted", "resnet"}, {"resnet"}

    async def task(page: Page) -> None:
        status, told = await ask(page, "/api/models")
        assert (status, [model["name"] for model in told["models"]]) == (200, ["painted"])
        server.models = {"resnet"}
        status, told = await ask(page, "/api/models")
        assert (status, "model 'resnet_segment': " in told["error"]) == (502, True)

    on_page(task, server, names=lambda: ["painted_segment", "resnet_segment"])
    assert "left out: " in caplog.text


def test_headers_open_a_server_that_asks_for_them() -> None:
    image = png_of(paint(HALVES))

    async def with_token(page: Page) -> None:
        _, told = await ask(page, "/api/image", image, model="painted")
        np.testing.assert_array_equal(unpacked(told["labels"]), HALVES)

    async def without(page: Page) -> None:
        status, told = await ask(page, "/api/image", image, model="painted")
        assert status == 502
        assert "no token, or a wrong one" in told["error"]
        assert told["error"].endswith("the page takes them with --tls-ca, --tls-cert, --tls-key and --headers")

    on_page(with_token, WholeModelWithToken(), headers={"authorization": TOKEN})
    on_page(without, WholeModelWithToken())


class _OtherModels(WholeModel):
    """Has entries of other models alone."""

    def __init__(self) -> None:
        super().__init__()
        self.contracts = {}


def test_slides_are_listed_shown_and_segmented(tmp_path: Path) -> None:
    labels = stripes((300, 700), margin=40)
    write_slide(tmp_path / "one.tiff", paint(labels), mpp=0.5)
    (tmp_path / "notes.txt").write_text("no slide")

    async def task(page: Page) -> None:
        assert (await ask(page, "/api/slides"))[1] == {"slides": ["one.tiff"]}
        _, shown = await ask(page, "/api/slides/one.tiff")
        assert (shown["width"], shown["height"]) == (700, 300)
        assert shown["mpp"] == pytest.approx([0.5, 0.5])
        place = {"model": "painted", "slide": "one.tiff", "x": 0.4, "y": 0.5, "side_px": 128}
        status, told = await ask(page, "/api/region", b"", **place)
        assert (status, told["width"], told["height"]) == (200, 128, 128)
        np.testing.assert_array_equal(unpacked(told["labels"]), labels[86:214, 216:344])
        assert told["area_mm2"] == pytest.approx(128 * 128 * 0.5**2 / 1e6)

    on_page(task, slides=tmp_path)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"slide": "../secret.tiff"}, "found none of that name"),
        ({"slide": "bare.tiff"}, "bare.tiff: expected µm per pixel within 0.05…20, the file has none: type the true value"),
        ({"x": 1.5}, "expected a center within the slide (0…1), got (1.5, 0.5)"),
        ({"side_px": 9000}, "expected a side of 32…8192 pixels, got 9000"),
        ({"y": ""}, "region: expected x, y and side_px, got x, side_px"),
    ],
)
def test_a_region_that_does_not_fit_is_one_line(tmp_path: Path, query: dict[str, Any], message: str) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    for path, mpp in ((tmp_path / "secret.tiff", 0.5), (folder / "bare.tiff", None), (folder / "one.tiff", 0.5)):
        write_slide(path, paint(stripes((200, 300))), mpp)
    right = {"model": "painted", "slide": "one.tiff", "x": 0.5, "y": 0.5, "side_px": TILE_PX}

    async def task(page: Page) -> None:
        status, told = await ask(page, "/api/region", b"", **(right | query))
        assert (status, message in told["error"]) == (400, True), told
        assert (await ask(page, "/api/region", b"", **right))[0] == 200
        assert (await ask(page, "/api/region", b"", **(right | {"slide": "bare.tiff", "mpp": "0.5"})))[0] == 200

    on_page(task, slides=folder)


def test_a_file_above_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients.ui.app, "MAX_BYTES", 2**20)

    async def task(page: Page) -> None:
        status, told = await ask(page, "/api/image", bytes(2**20 + 1), model="painted")
        assert (status, told) == (413, {"error": "image: expected a file of at most 1 MiB, got a larger one: cut it"})

    on_page(task)


def test_our_own_bugs_are_told_and_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(clients.ui.app, "analyze", lambda offer, client, picture: 1 // 0)

    async def task(page: Page) -> None:
        status, told = await ask(page, "/api/image", png_of(paint(HALVES)), model="painted")
        assert (status, told) == (500, {"error": "the page failed on this (ZeroDivisionError): its log says more"})

    on_page(task)
    assert [record.message for record in caplog.records if record.exc_info] == ["POST /api/image"]


def test_a_folder_that_went_is_told_and_may_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()

    async def task(page: Page) -> None:
        folder.rmdir()
        status, told = await ask(page, "/api/slides")
        assert (status, "expected a folder of slides, cannot read it: No such file or directory" in told["error"]) == (400, True)
        folder.mkdir()
        assert await ask(page, "/api/slides") == (200, {"slides": []})

    on_page(task, slides=folder)


def test_without_a_folder_slides_are_refused() -> None:
    async def task(page: Page) -> None:
        status, told = await ask(page, "/api/slides")
        assert (status, "add --ui-slides FOLDER" in told["error"]) == (400, True)

    on_page(task)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Host": "evil.example:{port}"}, "Host: expected one of"),
        ({"Host": "127.0.0.1:1"}, "Host: expected one of"),
        ({"Origin": "http://evil.example"}, "Origin: expected the page itself"),
        ({"Origin": "null"}, "Origin: expected the page itself"),
        ({"Sec-Fetch-Site": "cross-site"}, "Sec-Fetch-Site: expected the page itself"),
    ],
)
def test_other_sites_are_refused(headers: dict[str, str], message: str) -> None:
    async def task(page: Page) -> None:
        sent = {key: value.replace("{port}", str(page.port)) for key, value in headers.items()}
        for method, path in (("GET", "/"), ("GET", "/static/page.js"), ("POST", "/api/image?model=painted")):
            async with page.request(method, path, headers=sent) as got:
                assert got.status == 403
                assert message in (await got.json())["error"]
                assert "Access-Control-Allow-Origin" not in got.headers

    on_page(task)


def test_the_page_itself_is_let_in_under_its_names() -> None:
    async def task(page: Page) -> None:
        for host in (f"127.0.0.1:{page.port}", f"localhost:{page.port}", f"LOCALHOST:{page.port}"):
            async with page.get("/api/models", headers={"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}) as got:
                assert got.status == 200

    on_page(task)


def test_every_answer_forbids_what_the_page_does_not_need() -> None:
    """Also those that are errors."""

    async def task(page: Page) -> None:
        for path in ("/", "/static/page.js", "/api/models", "/api/slides", "/nowhere", "/static/../command.py"):
            async with page.get(path) as got:
                assert "default-src 'none'" in got.headers["Content-Security-Policy"]
                assert got.headers["X-Content-Type-Options"] == "nosniff"
                assert "Access-Control-Allow-Origin" not in got.headers

    on_page(task)


def test_the_page_needs_nothing_from_elsewhere() -> None:
    static = Path(__file__).parents[2] / "clients" / "ui" / "static"
    for path in static.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|[\"'(]//", text), path
