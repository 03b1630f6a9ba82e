"""Slides that are interrupted at every point there is: what is finished is kept, and the store ends as if nothing had happened."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zarr.core.sync import sync as zarr_sync

import clients.omezarr
import clients.segment
from clients.errors import OutputError
from clients.journal import Journal
from clients.lock import lock_store
from clients.segment import SegmentOptions, segment_slide
from clients.summary import SlideSummary
from serving.contract import BackgroundRule, Contract, Kind

from .painted import contract, paint, write_slide
from .painted_model import PaintedModel

STRIP_PX, HEIGHT, WIDTH = 128, 500, 210
OPTIONS = SegmentOptions(overlap=0.3)


class Killed(BaseException):
    """As sudden as it gets within a process."""


@pytest.fixture(autouse=True)
def small_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four strips on a small slide."""
    monkeypatch.setattr(clients.omezarr, "CHUNK_PX", STRIP_PX // 2)
    monkeypatch.setattr(clients.omezarr, "STRIP_PX", STRIP_PX)
    monkeypatch.setattr(clients.omezarr, "SHARD_WIDTH_PX", 2 * STRIP_PX)
    monkeypatch.setattr(clients.segment, "STRIP_PX", STRIP_PX)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes, glass and bright specks in a random pattern; noise in a channel that the network does not read makes every tile unlike all others."""
    random = np.random.default_rng(0)
    labels = random.choice(np.array([0, 1, 2, 3, 4], np.uint8), (HEIGHT // 20 + 1, WIDTH // 20 + 1), p=[0.3, 0.2, 0.2, 0.2, 0.1])
    labels = labels.repeat(20, axis=0).repeat(20, axis=1)[:HEIGHT, :WIDTH]
    labels[random.random(labels.shape) < 0.01] = 0
    rgb = paint(labels)
    rgb[..., 2] -= random.integers(0, 20, labels.shape, dtype=np.uint8)
    return write_slide(tmp_path_factory.mktemp("slide") / "s.tiff", rgb, 0.5)


def run(slide: Path, output: Path, model: PaintedModel | None = None, options: SegmentOptions = OPTIONS) -> SlideSummary | None:
    return segment_slide(slide, model or PaintedModel(), output, options, lambda done, total: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_finished(folder: Path) -> None:
    """The files of a slide, and nothing that is not to be seen."""
    assert names(folder) > {"s.ome.zarr", "s.overlay.png", "s.summary.json"}
    assert not [name for name in names(folder) if name.startswith(".")]


@pytest.mark.parametrize(("kind", "overlap"), [("segment", 0.0), ("segment", 0.75), ("cam", 0.3)])
def test_killed_at_every_batch_it_ends_bit_identical_and_sends_nothing_of_a_finished_strip_again(
    slide: Path, tmp_path: Path, kind: Kind, overlap: float
) -> None:
    options = SegmentOptions(overlap=overlap, batch=8 if overlap > 0.5 else 3)
    promise = contract(kind, BackgroundRule(200, 37))
    whole = PaintedModel(promise)
    summary = run(slide, tmp_path / "whole", whole, options)
    assert summary is not None
    sent: list[list[bytes]] = []
    finished_rows = 0
    for attempt in range(200):
        model = PaintedModel(promise, before_batch=_killer(at=attempt))
        kept = _state_row(tmp_path / "killed" / "s.ome.zarr")
        assert kept >= finished_rows  # what was done stays done
        finished_rows = kept
        try:
            last = run(slide, tmp_path / "killed", model, options)
        except Killed:
            sent.append(model.sent)
            continue
        sent.append(model.sent)
        break
    assert last is not None
    assert len(sent) > 3
    assert 0 < last.kept_tiles < last.tissue_tiles
    assert last.areas_mm2 == summary.areas_mm2
    assert contents(tmp_path / "killed" / "s.ome.zarr") == contents(tmp_path / "whole" / "s.ome.zarr")
    assert (tmp_path / "killed" / "s.overlay.png").read_bytes() == (tmp_path / "whole" / "s.overlay.png").read_bytes()
    assert_finished(tmp_path / "killed")
    assert list(dict.fromkeys(sent[-1])) == whole.sent[last.kept_tiles : last.tissue_tiles]
    assert len(set(whole.sent)) == last.tissue_tiles
    assert {shape[0] for shape in model.shapes} == {options.batch}


def _killer(at: int) -> Callable[[int], None]:
    def kill(number: int) -> None:
        if number == at:
            raise Killed

    return kill


def _state_row(store: Path) -> int:
    journal = Journal(store)
    if not journal.path.exists():
        return 0
    return int(journal._read()[1]["row"])


@pytest.mark.parametrize("calls", [("fsync",), ("replace", "rename"), ("unlink", "rmdir", "open")])
def test_killed_at_calls_that_change_the_disk(slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: tuple[str, ...]) -> None:
    """Each attempt dies at a later call, and from there on no call succeeds: clean-up does not happen either."""
    run(slide, tmp_path / "whole")
    for attempt in range(1, 1000):
        with monkeypatch.context() as patched:
            if _dies_at(patched, calls, 1 + attempt**2, tmp_path / "killed", lambda: run(slide, tmp_path / "killed")):
                continue
        break
    assert attempt > 3
    if not (tmp_path / "killed" / "s.ome.zarr").exists():
        run(slide, tmp_path / "killed")
    assert contents(tmp_path / "killed" / "s.ome.zarr") == contents(tmp_path / "whole" / "s.ome.zarr")
    _sweep_lock(tmp_path / "killed")
    assert [name for name in names(tmp_path / "killed") if name.startswith(".")] in ([], [".s.ome.zarr.state"])


def _dies_at(patched: pytest.MonkeyPatch, calls: tuple[str, ...], number: int, folder: Path, work: Callable[[], object]) -> bool:
    """Whether it was killed before it was done."""
    count = 0
    is_dead = False

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal count, is_dead
            if isinstance(arguments[0], str | Path) and not str(arguments[0]).startswith(str(folder)):
                return call(*arguments, **options)
            count += 1
            is_dead = is_dead or count == number
            if is_dead:
                raise Killed
            return call(*arguments, **options)

        return counted

    for name in calls:
        patched.setattr(os, name, wrap(getattr(os, name)))
    try:
        work()
    except Killed:
        _let_zarr_end()
        return True
    except OutputError:
        assert (folder / "s.ome.zarr").exists()  # it was killed after the store had its name: refused, as any finished one
        return False
    return is_dead


def _let_zarr_end() -> None:
    """A killed process has no threads that write on: neither may the chunks that zarr had under way."""

    async def end() -> None:
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    zarr_sync(end())


def _sweep_lock(folder: Path) -> None:
    with lock_store(folder / "s.ome.zarr"):
        pass


def interrupt(slide: Path, output: Path, model: PaintedModel | None = None, options: SegmentOptions = OPTIONS) -> None:
    """Stop when about half of the strips are done."""
    model = model or PaintedModel()
    model.before_batch = _killer(at=5)
    with pytest.raises(Killed):
        run(slide, output, model, options)
    assert _state_row(output / "s.ome.zarr") > 0
    assert names(output) == {".s.ome.zarr.partial", ".s.ome.zarr.state"}


def changed_rule() -> Contract:
    return contract(rule=BackgroundRule(200, 21))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda: (PaintedModel(engine="another"), OPTIONS), r"engine (painted → another)"),
        (lambda: (PaintedModel(changed_rule()), OPTIONS), "contract"),
        (lambda: (PaintedModel(), SegmentOptions(overlap=0.25)), "tiles"),
        (lambda: (PaintedModel(), SegmentOptions(overlap=0.3, mpp=0.501)), "scale"),
    ],
)
def test_another_run_s_work_is_discarded_and_the_reason_told(
    slide: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[], tuple[PaintedModel, SegmentOptions]],
    told: str,
) -> None:
    interrupt(slide, tmp_path / "out")
    model, options = change()
    with caplog.at_level(logging.WARNING):
        summary = run(slide, tmp_path / "out", model, options)
    assert summary is not None
    assert summary.kept_tiles == 0
    assert "the work of an interrupted run is discarded: since then changed" in caplog.text
    assert told in caplog.text
    model, options = change()
    run(slide, tmp_path / "whole", model, options)
    assert contents(tmp_path / "out" / "s.ome.zarr") == contents(tmp_path / "whole" / "s.ome.zarr")


def test_a_slide_that_changed_meanwhile_is_noticed(slide: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = tmp_path / "s.tiff"
    copy.write_bytes(slide.read_bytes())
    interrupt(copy, tmp_path / "out")
    os.utime(copy)
    summary = run(copy, tmp_path / "out")
    assert summary is not None
    assert summary.kept_tiles == 0
    assert "since then changed: slide" in caplog.text


def test_a_damaged_state_is_discarded(slide: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    interrupt(slide, tmp_path / "out")
    state = tmp_path / "out" / ".s.ome.zarr.state"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    summary = run(slide, tmp_path / "out")
    assert summary is not None
    assert summary.kept_tiles == 0
    assert "its state is damaged (its checksum differs)" in caplog.text


def test_fresh_begins_anew_and_overwrite_goes_on(slide: Path, tmp_path: Path) -> None:
    interrupt(slide, tmp_path / "a")
    begun_anew = run(slide, tmp_path / "a", options=SegmentOptions(overlap=0.3, fresh=True))
    interrupt(slide, tmp_path / "b")
    continued = run(slide, tmp_path / "b", options=SegmentOptions(overlap=0.3, overwrite=True))
    assert begun_anew is not None
    assert continued is not None
    assert begun_anew.kept_tiles == 0 < continued.kept_tiles


def test_a_finished_mask_is_skipped_only_where_it_is_this_run_s(slide: Path, tmp_path: Path) -> None:
    run(slide, tmp_path)
    before = contents(tmp_path)
    idle = PaintedModel()
    assert run(slide, tmp_path, idle, SegmentOptions(overlap=0.3, skip_existing=True)) is None
    assert idle.sent == []
    with pytest.raises(OutputError, match=r"since then changed: tiles: give --overwrite"):
        run(slide, tmp_path, options=SegmentOptions(overlap=0.25, skip_existing=True))
    assert contents(tmp_path) == before
    assert run(slide, tmp_path, options=SegmentOptions(overlap=0.25, skip_existing=True, overwrite=True)) is not None


def test_two_at_the_same_slide_do_not_meet(slide: Path, tmp_path: Path) -> None:
    refused: list[str] = []

    def second(number: int) -> None:
        with pytest.raises(OutputError, match=f"found process {os.getpid()}") as caught:
            run(slide, tmp_path)
        refused.append(str(caught.value))

    run(slide, tmp_path, PaintedModel(before_batch=second))
    assert refused
    assert_finished(tmp_path)
