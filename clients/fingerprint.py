"""What decides every pixel of a mask, so that work under one fingerprint is never mixed with another's. Knows no store."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.contract import Contract

from .errors import SlideError
from .frame import Frame
from .tiling import TileGrid

PIPELINE = 1  # raised by whoever changes what comes out of the same tiles
_END_BYTES = 1 << 20


@dataclass(frozen=True)
class Fingerprint:
    """Named parts, each as text; two masks with equal parts are equal (on one processor; FRAMES.md).

    Attributes:
        parts: e.g. "release": "demo_r1_segment". No address, no time, no name of a machine.
    """

    parts: Mapping[str, str]

    def changes(self, earlier: Mapping[str, Any]) -> list[str]:
        """What differs from earlier parts, as words for a message: the name, before and now where that is short."""
        names = [name for name in {**earlier, **self.parts} if earlier.get(name) != self.parts.get(name)]
        return [_change(name, earlier.get(name), self.parts.get(name)) for name in names]


def take_fingerprint(
    contract: Contract, engine: str, slide_path: Path, reader: str, frame: Frame, grid: TileGrid, tissue_c: npt.NDArray[np.bool_]
) -> Fingerprint:
    """The fingerprint of one slide under one model.

    Args:
        engine: what computes, without its address, e.g. "Triton 2.51.0: onnxruntime".
        tissue_c: (height_c, width_c), cells with tissue, however they were found.

    Raises:
        SlideError: the slide's file cannot be read.
    """
    return Fingerprint(
        {
            "histoserve": f"{version('histoserve')}, pipeline {PIPELINE}",
            "release": contract.release,
            "engine": engine,
            "contract": _digest(json.dumps(contract.to_parameters(), sort_keys=True).encode()),
            "scale": f"level {frame.level}, {frame.scale_x!r} × {frame.scale_y!r}, {frame.mpp_x!r} × {frame.mpp_y!r} µm per pixel",
            "tiles": json.dumps(dataclasses.asdict(grid)),
            "tissue": _digest(str(tissue_c.shape).encode(), np.packbits(tissue_c).tobytes()),
            "reader": reader,
            "slide": slide_content(slide_path),
        }
    )


def slide_content(path: Path) -> str:
    """Size, time of change and a digest of both ends of the file; of the files beside it that belong to it, names, sizes and times.

    Raises:
        SlideError: it cannot be read.
    """
    try:
        if path.is_dir():  # an OME-Zarr image
            parts = [(part.relative_to(path).as_posix(), *_size_and_time(part)) for part in sorted(path.rglob("*")) if part.is_file()]
            return f"{len(parts)} files, {_digest(json.dumps(parts).encode())}"
        status = os.stat(path)
        with open(path, "rb") as file:
            first = file.read(_END_BYTES)
            file.seek(max(0, status.st_size - _END_BYTES))
            last = file.read(_END_BYTES)
        beside = [(str(part.relative_to(path.parent)), *_size_and_time(part)) for part in _companions(path)]
    except OSError as error:
        raise SlideError(f"{path}: expected a slide that can be read: {error.strerror}: check the path and its permissions") from error
    return f"{status.st_size} bytes of {status.st_mtime_ns}, {_digest(first, last, json.dumps(beside).encode())}"


def _companions(path: Path) -> list[Path]:
    """MRXS keeps its pixels in a folder of its own name, DICOM in the other files of its folder."""
    if path.suffix.lower() == ".mrxs":
        return sorted(part for part in path.with_suffix("").glob("*") if part.is_file())
    if path.suffix.lower() == ".dcm":
        return sorted(path.parent.glob(f"*{path.suffix}"))
    return []


def _size_and_time(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]


def _change(name: str, before: Any, now: Any) -> str:
    is_short = all(isinstance(value, str) and len(value) < 60 for value in (before, now))
    return f"{name} ({before} → {now})" if is_short and name not in ("contract", "tissue") else name
