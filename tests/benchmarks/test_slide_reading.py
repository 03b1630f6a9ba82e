"""The reading measurement end to end on a small generated slide: what it reads, what it counts, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.slide_reading import ReadingConfig, main, measure
from training.slides import write_slide


def test_every_reader_reads_the_slide_and_the_figures_fit_each_other(tmp_path: Path) -> None:
    slide = tmp_path / "s.tiff"
    write_slide(slide, 1, 800, 600)
    reading = measure(slide, ReadingConfig(rows_px=128, repeats=3, threads=1))
    assert reading.size_px == (800, 600)
    assert reading.reader.startswith("native: ")
    assert set(reading.mpx_per_cpu_s) == set(reading.wall_s) == {"native", "openslide", "read_region"}
    assert all(mpx > 0 for mpx in reading.mpx_per_cpu_s.values())
    low, high = reading.ratio_range
    assert low <= reading.ratio <= high


def test_the_command_generates_a_slide_and_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "figures.json"
    assert main(["--generated-px", "720", "--repeats", "1", "--json", str(figures)]) == 0
    (reading,) = json.loads(figures.read_text())
    assert (reading["slide"], reading["size_px"]) == ("generated.tiff", [720, 540])
    assert "generated.tiff  720×540  [native: " in capsys.readouterr().out


def test_a_missing_slide_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere.svs")]) == 1
    assert "nowhere.svs: expected a slide, found no such file" in capsys.readouterr().err


def test_a_generated_slide_that_is_too_small_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--generated-px", "400"]) == 1
    assert "expected sides of at least 512 px, got 400×300" in capsys.readouterr().err
