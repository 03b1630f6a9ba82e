"""Triton's own load generator on the same model and tiles, where it is on PATH: a second opinion on ours. Knows its flags and its CSV."""

from __future__ import annotations

import base64
import csv
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clients.endpoint import Entry
from serving.contract import TILE

from .errors import BenchError
from .tiles import make_tiles

PROGRAM = "perf_analyzer"
_TILES = 16
_RATE, _P50_US = "Inferences/Second", "p50 latency"


def find_perf_analyzer() -> Path | None:
    """None where it is not on PATH."""
    found = shutil.which(PROGRAM)
    return None if found is None else Path(found)


def run_perf_analyzer(program: Path, address: str, entry: Entry, concurrency: int, seconds: float) -> dict[str, Any]:
    """A closed loop of single tiles: `requests_per_s` and `p50_ms`.

    Raises:
        BenchError: it fails, or its table is another than expected.
    """
    with tempfile.TemporaryDirectory() as temporary:
        data, table = Path(temporary) / "tiles.json", Path(temporary) / "table.csv"
        tiles = make_tiles(_TILES, entry.contract.task.tile_px)
        data.write_text(
            json.dumps({"data": [{TILE: {"b64": base64.b64encode(tile.tobytes()).decode()}} for tile in tiles]}), encoding="ascii"
        )
        command = [
            *(str(program), "-m", entry.name, "-u", address, "-i", "grpc", "--async"),
            *("--concurrency-range", str(concurrency), "--measurement-interval", str(round(1000 * seconds))),
            *("--input-data", str(data), "-f", str(table)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not table.exists():
            last = " ".join((done.stderr or done.stdout).split())[-300:]
            raise BenchError(f"{program}: ended with {done.returncode}: {last}: leave it out of PATH to go without")
        return read_table(table)


def read_table(table: Path) -> dict[str, float]:
    """The first row of what it wrote.

    Raises:
        BenchError: columns that we need are missing.
    """
    with table.open(newline="", encoding="utf-8") as lines:
        row = next(csv.DictReader(lines), {})
    if not {_RATE, _P50_US} <= set(row):
        raise BenchError(
            f"{table.name} of {PROGRAM}: expected the columns {_RATE!r} and {_P50_US!r}, got {sorted(row)}: use a release of 2024 or later"
        )
    return {"requests_per_s": float(row[_RATE]), "p50_ms": float(row[_P50_US]) / 1000}


def differences(ours: Mapping[str, Any], theirs: Mapping[str, float]) -> dict[str, float | None]:
    """Ours over theirs: 1 = they agree; None = ours has too few samples."""
    p50_ms = ours["latency_ms"]["p50"]
    return {
        "requests_per_s_over_perf_analyzer": round(ours["requests_per_s"] / theirs["requests_per_s"], 3),
        "p50_over_perf_analyzer": None if p50_ms is None else round(p50_ms / theirs["p50_ms"], 3),
    }
