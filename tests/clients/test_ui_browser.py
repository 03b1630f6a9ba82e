"""The page in a real, headless Chromium: what a person sees is read from the canvas. One test goes the whole way, from `histoserve serve --ui` on."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from clients.ui.sources import png_of
from serving.port import free_port
from tests.serving import tiny_release as tiny
from tests.serving.next_release import enter, write_other_model, write_release
from tests.serving.processes import wait_until, with_word
from tests.serving.serving_process import serving

from .painted import CELL_PX, paint, stripes, write_slide
from .ui_fakes import WholeModel

ROOT = Path(__file__).parents[2]
PATIENCE_MS = 60_000
# Two colors on which the miniature release says class 3 (the mean of blue leads) and class 2 (green leads).
BLUE, GREEN = (20, 30, 120), (20, 120, 30)
COLORS = {index + 1: tissue.color for index, tissue in enumerate(tiny.contract().task.classes)}
DROP = """(data) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const held = new DataTransfer();
  held.items.add(new File([bytes], "image.png", { type: "image/png" }));
  document.querySelector("#board").dispatchEvent(new DragEvent("drop", { dataTransfer: held, bubbles: true, cancelable: true }));
}"""
PIXEL = "([x, y]) => [...document.querySelector('#view').getContext('2d').getImageData(x, y, 1, 1).data.slice(0, 3)]"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium: none is downloaded. Without it the test fails: a skipped browser test would look like a passed one."""
    found = shutil.which("chromium")
    assert found is not None, "chromium: expected Debian's package, found none: apt-get install chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])  # root, in CI
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in which every error of the script is the test's."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    context.close()
    assert errors == []


@pytest.fixture
def painted_page(page: Page, tmp_path: Path) -> Iterator[tuple[Page, npt.NDArray[np.uint8]]]:
    """The page on a painted model with a slide of stripes of all its classes."""
    labels = stripes((300, 700), margin=40)
    write_slide(tmp_path / "one.tiff", paint(labels), mpp=0.5)
    port = free_port()
    with WholeModel() as server:
        flags = ["--server", server.address, "--model", "painted", "--port", str(port), "--slides", str(tmp_path), "--until-stdin-ends"]
        with subprocess.Popen(
            [sys.executable, "-m", "clients.ui", *flags], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert b"the page is at" in process.stdout.readline()
            page.goto(f"http://127.0.0.1:{port}/")
            yield page, labels
            process.communicate()


def drop(page: Page, data: bytes) -> None:
    page.evaluate(DROP, base64.b64encode(data).decode())


def state(page: Page, name: str) -> None:
    expect(page.locator("body")).to_have_attribute("data-state", name, timeout=PATIENCE_MS)


def pixel(page: Page, x: int, y: int) -> list[int]:
    """RGB of the canvas."""
    found: list[int] = page.evaluate(PIXEL, [x, y])
    return found


def over(color: Any, rgb: Any, opacity: float) -> Any:
    """What a color of that opacity over a pixel looks like, to a level or two."""
    return pytest.approx([opacity * top + (1 - opacity) * below for top, below in zip(color, rgb, strict=True)], abs=2)


def set_opacity(page: Page, percent: int) -> None:
    page.locator("#opacity").fill(str(percent))


@pytest.mark.triton
def test_an_image_dropped_on_the_page_of_serve(page: Page, tmp_path: Path) -> None:
    repository = tiny.write_tiny_release(tmp_path / "model_repository")
    port = free_port()
    with serving(repository, "--ui", "--ui-port", str(port)) as server:
        server.wait_for("the page is at")
        page.goto(f"http://127.0.0.1:{port}/")
        state(page, "idle")
        rgb = np.empty((70, 96, 3), np.uint8)
        rgb[:, :48], rgb[:, 48:] = BLUE, GREEN
        drop(page, png_of(rgb))
        state(page, "done")

        left, right = (10, 35), (85, 60)
        assert pixel(page, *left) == over(COLORS[3], BLUE, 0.55)
        assert pixel(page, *right) == over(COLORS[2], GREEN, 0.55)
        set_opacity(page, 100)
        assert (pixel(page, *left), pixel(page, *right)) == (list(COLORS[3]), list(COLORS[2]))
        set_opacity(page, 0)
        assert (pixel(page, *left), pixel(page, *right)) == (list(BLUE), list(GREEN))
        set_opacity(page, 100)
        page.get_by_role("checkbox", name=tiny.contract().task.class_names[2]).uncheck()
        assert (pixel(page, *left), pixel(page, *right)) == (list(BLUE), list(COLORS[2]))
        assert [row.split("\t")[1] for row in page.locator("#classes").inner_text().splitlines() if "\t" in row] == [
            "0 %",
            "50 %",
            "50 %",
            "0 %",
            "0 %",
        ]
        assert page.locator("[name=layer][value=heat]").is_disabled()  # the miniature release gives no CAMs
        assert "Mask in" in page.locator("#facts").inner_text()

        drop(page, png_of(rgb)[:-30])
        state(page, "failed")
        expect(page.get_by_role("alert")).to_contain_text("damaged or cut off")
        expect(page.locator("#panel")).to_have_css("opacity", "0.45")  # what is shown is of the image before
        page.locator("#file").set_input_files({"name": "again.png", "mimeType": "image/png", "buffer": png_of(rgb[:, ::-1])})
        state(page, "done")
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(page.locator("#panel")).to_have_css("opacity", "1")
        assert (pixel(page, *left), pixel(page, *right)) == (list(COLORS[2]), list(BLUE))  # the class is still off
    assert wait_until(lambda: not with_word(f"--port {port}"))


@pytest.mark.triton
def test_models_that_come_and_go_while_the_page_is_open(page: Page, tmp_path: Path) -> None:
    repository = tiny.write_tiny_release(tmp_path / "model_repository")
    write_release(repository, 2)
    port = free_port()
    with serving(repository, "--reloadable", "--ui", "--ui-port", str(port)) as server:
        server.wait_for("the page is at")
        page.goto(f"http://127.0.0.1:{port}/")
        state(page, "idle")
        options = page.locator("#model option")
        expect(options).to_have_text(["tiny"])
        enter(repository, 2)
        other = write_other_model(repository)
        expect(options).to_have_text(["other", "tiny"], timeout=PATIENCE_MS)
        expect(page.locator("#model")).to_have_value("tiny")  # what was chosen stays chosen

        server.wait_for("tiny_segment: now tiny_r2_segment")
        rgb = np.full((tiny.TILE_PX, tiny.TILE_PX, 3), BLUE, np.uint8)
        drop(page, png_of(rgb))
        state(page, "done")
        expect(page.locator("#facts")).to_contain_text("tiny_r2_segment")  # the release of now

        page.locator("#model").select_option("other")
        state(page, "done")
        expect(page.locator("#facts")).to_contain_text("other_r1_segment", timeout=PATIENCE_MS)
        shutil.rmtree(repository / other)
        expect(options).to_have_text(["tiny"], timeout=PATIENCE_MS)
        expect(page.get_by_role("alert")).to_have_text("other is not served any more: tiny is chosen now.")


def test_a_page_that_was_there_before_its_server_finds_it(page: Page) -> None:
    server, port = WholeModel(), free_port()
    server.port = free_port()
    flags = ["--server", f"127.0.0.1:{server.port}", "--model", "painted", "--port", str(port), "--until-stdin-ends"]
    with subprocess.Popen([sys.executable, "-m", "clients.ui", *flags], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"the page is at" in process.stdout.readline()
        page.goto(f"http://127.0.0.1:{port}/")
        state(page, "failed")
        with server:
            expect(page.locator("#model option")).to_have_text(["painted"], timeout=PATIENCE_MS)
            state(page, "idle")
            expect(page.get_by_role("alert")).to_be_hidden()
        process.communicate()


def test_heat_maps_scores_and_a_region_of_a_slide_by_mouse_and_keyboard(painted_page: tuple[Page, npt.NDArray[np.uint8]]) -> None:
    page, labels = painted_page
    state(page, "idle")
    page.get_by_role("radio", name="Slide region").check()
    thumbnail = page.locator("#thumbnail")
    expect(thumbnail).to_have_attribute("width", "700", timeout=PATIENCE_MS)
    state(page, "done")
    page.locator("#side").select_option("256")
    box = thumbnail.bounding_box()
    assert box is not None
    thumbnail.click(position={"x": box["width"] * 0.4, "y": box["height"] * 0.5})
    expect(page.locator("#panel")).to_be_visible()
    state(page, "done")
    set_opacity(page, 100)
    region = labels[22:278, 152:408]  # around (280, 150)
    for x in (6, 100, 250):
        assert pixel(page, x, 128) == list(COLORS[int(region[128, x])])
    assert page.locator("#classes tr").first.inner_text().split()[-1] == "0.90"

    page.get_by_role("radio", name="Heat map").check()
    page.locator("#heat-class").select_option(index=1)
    inside, outside = (int(np.flatnonzero(row)[np.count_nonzero(row) // 2]) for row in (region[128] == 2, region[128] == 4))
    inside, outside = (x // CELL_PX * CELL_PX + CELL_PX // 2 for x in (inside, outside))
    assert pixel(page, outside, 128) == paint(region)[128, outside].tolist()
    assert pixel(page, inside, 128) != paint(region)[128, inside].tolist()

    page.get_by_role("radio", name="Image alone").check()
    before = pixel(page, 128, 128)
    thumbnail.focus()
    page.keyboard.press("ArrowRight")  # a quarter of the square
    page.keyboard.press("Enter")
    moved = paint(labels)[150, 280 + 64].tolist()
    assert before == paint(labels)[150, 280].tolist() != moved
    expect(page.locator("#busy")).to_be_hidden(timeout=PATIENCE_MS)
    assert wait_until(lambda: pixel(page, 128, 128) == moved)
