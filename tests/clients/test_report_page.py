"""The page of a run: every slide is on it, nothing outside is needed, names cannot break it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clients.errors import OutputError
from clients.report_page import PageHead, write_page

HEAD = PageHead("histoserve segment a.svs -o <out>", {"python": "3.11"})
VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Tags, texts and attributes; fails where tags do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def summary(**changes: Any) -> dict[str, Any]:
    usual = {
        "overlay": "a #1.overlay.png",
        "tiles": 1000,
        "tissue_tiles": 400,
        "seconds": {"tissue": 1.0, "segment": 7.0},
        "size_px": [4096, 3072],
        "mpp": [0.5, 0.5],
        "areas_mm2": {"tumor": 1.5, "gland": 0.5},
        "outputs": {"colors": {"tumor": "#d62728", "gland": "#1f77b4"}},
    }
    return usual | changes


def page(folder: Path, *slides: dict[str, Any]) -> tuple[str, Reader]:
    (folder / "batch.json").write_text(json.dumps({"slides": slides}))
    text = write_page(folder, HEAD).read_text(encoding="utf-8")
    return text, Reader(text)


def test_shows_a_finished_slide(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((600, 900, 3), np.uint8)).save(tmp_path / "a #1.overlay.png")
    text, reader = page(tmp_path, {"slide": "a #1.svs", "state": "done", "reason": None, "summary": summary()})
    told = " ".join(reader.texts)
    for expected in (
        "1 slide, 0 failed",
        "a #1.svs",
        "400 of 1,000 tiles",
        "8.0 s",
        "50 tiles/s",
        "1.500 mm²",
        "75.0 %",
        "4,096 × 3,072 px at 0.5 µm",
    ):
        assert expected in told
    assert "histoserve segment a.svs -o <out>" in told
    assert ("href", "a%20%231.overlay.png") in reader.attributes
    assert "width:75.000%;background:#d62728" in text
    source = next(value for name, value in reader.attributes if name == "src")
    assert source is not None
    assert source.startswith("data:image/jpeg;base64,")
    assert "http" not in text


def test_failures_come_first_with_their_reasons(tmp_path: Path) -> None:
    done = {"slide": "a.svs", "state": "done", "reason": None, "summary": summary()}
    failed = {"slide": "<b>.svs", "state": "failed", "reason": "no <script>alert(1)</script> here", "summary": None}
    waiting = {"slide": "c.svs", "state": "waiting", "reason": None, "summary": None}
    text, reader = page(tmp_path, done, failed, waiting)
    told = " ".join(reader.texts)
    assert told.index("<b>.svs") < told.index("1.500 mm²")
    assert "no <script>alert(1)</script> here" in told
    assert "<script>" not in text
    assert "3 slides, 1 failed" in told
    assert "a #1.overlay.png is not there" in told


def test_a_slide_without_tissue_has_no_shares(tmp_path: Path) -> None:
    empty = summary(areas_mm2={"tumor": 0.0, "gland": 0.0}, tissue_tiles=0, seconds={})
    _, reader = page(tmp_path, {"slide": "a.svs", "state": "done", "reason": None, "summary": empty})
    assert "0.0 %" in " ".join(reader.texts)


def test_says_when_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"expected a batch\.json"):
        write_page(tmp_path, HEAD)


def test_a_skipped_slide_shows_what_made_its_mask(tmp_path: Path) -> None:
    (tmp_path / "a.summary.json").write_text(json.dumps(summary()))
    _, reader = page(tmp_path, {"slide": "a.svs", "state": "skipped", "reason": None, "summary": None})
    assert "1.500 mm²" in " ".join(reader.texts)
