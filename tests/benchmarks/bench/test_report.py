"""The report of known results: what it shows, that it does not change, and that the page needs nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.bench.errors import ResultError
from benchmarks.bench.report_cli import Flags, run
from benchmarks.bench.report_document import Plot, Section, Table, as_html, as_markdown
from benchmarks.bench.report_generic import text_of
from benchmarks.bench.report_sections import section_of

from .result_contents import content, limits_content, server_content


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    for made in (server_content(), limits_content()):
        (folder / f"{made['kind']}.json").write_text(json.dumps(made))
    (folder / "other-study.json").write_text("{}")
    return folder


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_results_give_the_same_bytes(results: Path, tmp_path: Path) -> None:
    """Also in another process, where sets and hashes are ordered otherwise."""
    run(Flags(results, tmp_path / "a"))
    flags = f"Path({str(results)!r}), Path({str(tmp_path / 'b')!r})"
    code = f"from pathlib import Path; from benchmarks.bench.report_cli import Flags, run; run(Flags({flags}))"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "7"}, stdout=subprocess.DEVNULL)
    first = contents_of(tmp_path / "a")
    assert set(first) == {"report.md", "report.html", "server-latency.svg", "server-steps.svg", "limits-roofline.svg"}
    assert first == contents_of(tmp_path / "b")


def test_the_page_needs_no_other_file(results: Path, tmp_path: Path) -> None:
    run(Flags(results, tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg ") == 3
    assert "<img" not in page
    assert "src=" not in page
    ids = [part.split('"')[0] for part in page.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    assert {used.split(")")[0] for used in page.split("url(#")[1:]} <= set(ids)
    for path in tmp_path.glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_a_server_is_loads_steps_and_a_curve() -> None:
    section = section_of(server_content())
    ratios, loads, steps = section.tables
    assert ratios.rows == (("p99_over_mdc", "1.25"), ("knee_requests_per_s", "51"))
    assert loads.rows[1] == ("closed 2", "52", "20", "40", "60", "–", "–", "100", "rejected 1", "0.5", "12.5", "340")
    assert [row[0] for row in loads.rows] == ["closed 1", "closed 2", "closed 4", "open 0.5", "open 0.7"]
    assert ("closed 4", "m_r1_net", "1.5", "2", "7", "9") in steps.rows
    assert "Not measured, priority: no step of the model knows priorities." in section.notes
    assert "Abacus, 2 cores" in section.notes[1]
    latency, _ = section.plots
    for shown in ("closed loop, p50", "open loop, p95", "knee"):
        assert shown in latency.svg
    assert "p99" not in latency.svg  # no point has one


def test_limits_are_figures_and_a_roofline() -> None:
    section = section_of(limits_content())
    assert ("gemm 2", "2", "100") in section.tables[1].rows
    assert [plot.name for plot in section.plots] == ["limits-roofline"]


def test_an_interrupted_run_and_an_unknown_kind_are_shown_as_far_as_they_are() -> None:
    half = limits_content() | {"ratios": {}}
    half["points"] = half["points"][:2]
    assert section_of(half).plots == ()
    assert section_of(content("bench-new", [{"name": "a", "x": 1, "nested": {"y": 2}}], {})).tables == (
        Table(("point", "x"), (("a", "1"),)),
    )


def test_a_folder_without_results_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="found none: measure first"):
        run(Flags(tmp_path, tmp_path / "report"))
    assert not (tmp_path / "report").exists()


def test_text_is_escaped() -> None:
    section = Section(
        "a < b", ("`x` & y",), (Table(("h|1", "h2"), (("<b>", "1"),)),), (Plot("p", "c", '<svg id="q"><use href="#q"/></svg>'),)
    )
    page, text = as_html("t", [section]), as_markdown("t", [section])
    assert "<h2>a &lt; b</h2>" in page
    assert "<code>x</code> &amp; y" in page
    assert "&lt;b&gt;" in page
    assert '<svg id="p-q"><use href="#p-q"/></svg>' in page
    assert "| h\\|1 | h2 |\n| --- | ---: |" in text
    assert "![c](p.svg)" in text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.12345, "0.1235"), (12345.6, "12,346"), (3, "3"), (True, "True"), ("x", "x")])
def test_cells(value: object, text: str) -> None:
    assert text_of(value) == text
