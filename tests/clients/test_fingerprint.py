"""Everything that decides a mask's pixels changes the fingerprint; nothing else does."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.errors import SlideError
from clients.fingerprint import Fingerprint, slide_content, take_fingerprint
from clients.frame import Frame
from clients.tiling import make_grid
from serving.contract import BackgroundRule

from .painted import contract

FRAME = Frame(0, 1.0, 1.0, 400, 300, 0.5, 0.5)
GRID = make_grid(400, 300, 64, 4, 0.25)
TISSUE = np.random.default_rng(0).random((75, 100)) > 0.5


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / "s.svs"
    path.write_bytes(np.random.default_rng(0).bytes(3 << 20))
    return path


def take(slide: Path, **changed: Any) -> Fingerprint:
    given: dict[str, Any] = {
        "contract": contract(),
        "engine": "triton 2.51",
        "reader": "native",
        "frame": FRAME,
        "grid": GRID,
        "tissue_c": TISSUE,
    }
    return take_fingerprint(slide_path=slide, **(given | changed))


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"contract": dataclasses.replace(contract(), release="painted_r2_segment")}, ["release", "contract"]),
        ({"contract": contract(rule=BackgroundRule(200, 21))}, ["contract"]),
        ({"engine": "triton 2.60"}, ["engine"]),
        ({"reader": "openslide"}, ["reader"]),
        ({"frame": dataclasses.replace(FRAME, mpp_x=0.5000001)}, ["scale"]),
        ({"grid": make_grid(400, 300, 64, 4, 0.5)}, ["tiles"]),
        ({"tissue_c": ~TISSUE}, ["tissue"]),
        ({"tissue_c": TISSUE.T}, ["tissue"]),
    ],
)
def test_each_part_tells_of_its_change(slide: Path, changed: dict[str, Any], names: list[str]) -> None:
    before, now = take(slide), take(slide, **changed)
    assert [change.split(" ")[0] for change in now.changes(before.parts)] == names
    assert take(slide).changes(before.parts) == []


def test_short_parts_are_told_before_and_after(slide: Path) -> None:
    assert take(slide, reader="openslide").changes(take(slide).parts) == ["reader (native → openslide)"]


def test_parts_of_an_older_histoserve_are_named(slide: Path) -> None:
    parts = dict(take(slide).parts)
    del parts["engine"]
    assert take(slide).changes(parts | {"window": "hann"}) == ["window", "engine"]


@pytest.mark.parametrize("offset", [0, (3 << 20) - 1])
def test_the_ends_of_a_slide_are_looked_at(slide: Path, offset: int) -> None:
    before, status = slide_content(slide), os.stat(slide)
    with open(slide, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    os.utime(slide, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert slide_content(slide) != before


def test_a_later_time_or_another_size_is_another_slide(slide: Path) -> None:
    before, status = slide_content(slide), os.stat(slide)
    os.utime(slide, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    touched = slide_content(slide)
    assert touched != before
    with open(slide, "ab") as file:
        file.write(b"1")
    assert slide_content(slide).split(",")[1] != touched.split(",")[1]


@pytest.mark.parametrize(("name", "beside"), [("s.mrxs", "s/Data0001.dat"), ("a.dcm", "b.dcm")])
def test_files_that_belong_to_a_slide_are_part_of_it(tmp_path: Path, name: str, beside: str) -> None:
    (tmp_path / name).write_bytes(b"1")
    before = slide_content(tmp_path / name)
    (tmp_path / beside).parent.mkdir(exist_ok=True)
    (tmp_path / beside).write_bytes(b"2")
    assert slide_content(tmp_path / name) != before


def test_a_slide_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"absent\.svs: .*No such file"):
        slide_content(tmp_path / "absent.svs")
