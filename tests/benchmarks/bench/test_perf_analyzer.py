"""A second opinion from a stand-in that answers with what it was asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.bench.errors import BenchError
from benchmarks.bench.perf_analyzer import differences, find_perf_analyzer, run_perf_analyzer
from clients.endpoint import Entry
from tests.serving.tiny_release import TILE_PX, contract

ENTRY = Entry("tiny_segment", contract(), 64)
# Rate = concurrency × 100 + tiles in the file; p50 = the first tile's bytes, in microseconds.
STAND_IN = """#!/usr/bin/env python3
import base64, json, sys
given = dict(zip(sys.argv[1:], sys.argv[2:]))
tiles = json.load(open(given["--input-data"]))["data"]
size = len(base64.b64decode(tiles[0]["TILE"]["b64"]))
assert (given["-m"], given["-u"], given["-i"]) == ("tiny_segment", "127.0.0.1:9", "grpc")
with open(given["-f"], "w") as table:
    callers = int(given["--concurrency-range"])
    table.write(f"Concurrency,{COLUMN},p50 latency\\n{callers},{callers * 100 + len(tiles)},{size}\\n")
"""


def stand_in(folder: Path, text: str) -> Path:
    path = folder / "perf_analyzer"
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_it_is_asked_for_the_same_and_its_table_is_read(tmp_path: Path) -> None:
    program = stand_in(tmp_path, STAND_IN.replace("{COLUMN}", "Inferences/Second"))
    theirs = run_perf_analyzer(program, "127.0.0.1:9", ENTRY, 4, 2.0)
    assert theirs == {"requests_per_s": 416.0, "p50_ms": TILE_PX**2 * 3 / 1000}
    assert differences({"requests_per_s": 208.0, "latency_ms": {"p50": 6.144}}, theirs) == {
        "requests_per_s_over_perf_analyzer": 0.5,
        "p50_over_perf_analyzer": 2.0,
    }
    assert differences({"requests_per_s": 208.0, "latency_ms": {"p50": None}}, theirs)["p50_over_perf_analyzer"] is None


def test_another_table_and_a_failure_are_told(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"expected the columns 'Inferences/Second'"):
        run_perf_analyzer(stand_in(tmp_path, STAND_IN.replace("{COLUMN}", "Speed")), "127.0.0.1:9", ENTRY, 1, 1.0)
    with pytest.raises(BenchError, match="ended with 3: no such model"):
        run_perf_analyzer(stand_in(tmp_path, "#!/bin/sh\necho no such model >&2; exit 3\n"), "127.0.0.1:9", ENTRY, 1, 1.0)


def test_it_is_looked_for_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_perf_analyzer() is None
    program = stand_in(tmp_path, "#!/bin/sh\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/nowhere")
    assert find_perf_analyzer() == program
