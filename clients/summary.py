"""What is told of a finished slide, and of a run: `S.summary.json` and `batch.json`. Knows no slide."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["waiting", "done", "skipped", "failed", "interrupted"]
_VERSIONS_OF = ("histoserve", "tifffile", "imagecodecs", "simplejpeg", "openslide-python", "openslide-bin", "tritonclient", "zarr", "numpy")


@dataclass(frozen=True)
class SlideSummary:
    """One finished slide.

    Attributes:
        mask: name of the store beside the summary; so are the other files.
        release: the frozen ensemble that answered.
        mpp: micrometers per mask pixel, (x, y).
        size_px: of the mask, (width, height).
        level: of the slide, that was read.
        reader: native or openslide, and why.
        icc_ignored: the slide holds a color profile, which was not applied.
        tissue_tiles: of the `tiles` that cover the slide, those that decide its mask.
        kept_tiles: of these, those of strips that an interrupted run had finished: they were not sent again.
        areas_mm2: per class, from the mask at full resolution.
        seconds: wall time by phase.
        outputs: what else was made of the slide, and how (`write_outputs`).
    """

    slide: str
    mask: str
    overlay: str
    model: str
    release: str
    mpp: tuple[float, float]
    size_px: tuple[int, int]
    level: int
    tiles: int
    tissue_tiles: int
    kept_tiles: int
    reader: str
    reader_reason: str
    icc_ignored: bool
    areas_mm2: Mapping[str, float]
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    outputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SlideOutcome:
    """How one slide of a run ended, or how far it is.

    Attributes:
        state: "skipped": its mask was there; "interrupted": the same command goes on with it.
        reason: why it failed; else None.
        summary: of a slide that is done.
    """

    slide: str
    state: State
    reason: str | None = None
    summary: SlideSummary | None = None


def versions() -> dict[str, str]:
    """Of Python and of the libraries that a mask depends on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _VERSIONS_OF}}


def write_summary(path: Path, summary: SlideSummary) -> None:
    """Write `S.summary.json`."""
    write_json(path, dataclasses.asdict(summary))


def write_batch(path: Path, outcomes: Sequence[SlideOutcome]) -> None:
    """Write `batch.json`: one entry per slide of the run."""
    write_json(path, {"slides": [as_entry(outcome) for outcome in outcomes]})


def as_entry(outcome: SlideOutcome) -> dict[str, Any]:
    """JSON-ready."""
    summary = None if outcome.summary is None else dataclasses.asdict(outcome.summary)
    return {"slide": outcome.slide, "state": outcome.state, "reason": outcome.reason, "summary": summary}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    replace_file(path, lambda partial: partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8"))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside it, then give that its name: readers see the old or the new, never a half."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
