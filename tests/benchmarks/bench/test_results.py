"""A result file: what it says, how it is gone on with, and what it refuses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench import results as results_module
from benchmarks.bench.errors import ResultError
from benchmarks.bench.machine import commit_of, this_machine, versions_of
from benchmarks.bench.results import Results, read_results


def begin(path: Path, *, fresh: bool = False, **settings: Any) -> Results:
    return Results.begin(path, "bench-test", "histoserve bench test", settings or {"seconds": 1}, fresh=fresh)


def test_it_says_where_and_with_what(tmp_path: Path) -> None:
    path = tmp_path / "new" / "bench-test.json"
    results = begin(path)
    results.measure("a", lambda: {"tiles_per_s": 2.5, "shape": (1, 2)})
    results.finish({"a_over_b": None})
    content = json.loads(path.read_text())
    assert list(content) == ["kind", "machine", "versions", "commit", "command", "created", "settings", "points", "ratios"]
    assert set(content["machine"]) == {"cpu", "cores", "memory_gb", "gpu", "system"}
    assert content["machine"]["cores"] >= 1
    assert {"python", "numpy"} <= set(content["versions"])
    assert content["ratios"] == {"a_over_b": None}
    (point,) = content["points"]
    assert point.pop("load_1min") >= 0
    assert point == {"name": "a", "tiles_per_s": 2.5, "shape": [1, 2]}
    assert [each.name for each in path.parent.iterdir()] == ["bench-test.json"]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "bench-test.json"
    asked: list[str] = []

    def measure(name: str) -> dict[str, str]:
        asked.append(name)
        if asked == ["a", "b"]:
            raise KeyboardInterrupt
        return {"is": name}

    first = begin(path)
    first.measure("a", lambda: measure("a"))
    with pytest.raises(KeyboardInterrupt):
        first.measure("b", lambda: measure("b"))
    second = begin(path)
    for name in ("a", "b", "c"):
        assert second.measure(name, lambda name=name: measure(name))["is"] == name  # type: ignore[misc]
    assert asked == ["a", "b", "b", "c"]
    assert list(begin(path).points) == ["a", "b", "c"]
    assert read_results(path)["created"] == first.content["created"]


def test_what_is_measured_equals_what_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "bench-test.json"
    measured = begin(path).measure("a", lambda: {"pair": (1, 2), "by_count": {1: "one"}})
    assert begin(path).measure("a", dict) == measured


def test_other_settings_are_refused_or_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "bench-test.json"
    begin(path, seconds=1, seed=0).measure("a", lambda: {"is": 1})
    with pytest.raises(ResultError, match=r"other settings: expected \{'seconds': 2\}, got \{'seconds': 1\}: give --fresh"):
        begin(path, seconds=2, seed=0)
    begin(path, seconds=2, seed=0, fresh=True).measure("a", lambda: {"is": 2})
    assert read_results(path)["points"][0]["is"] == 2


def test_points_of_another_commit_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bench-test.json"
    monkeypatch.setattr(results_module, "commit_of", lambda: "aaaa")
    begin(path).measure("a", dict)
    monkeypatch.setattr(results_module, "commit_of", lambda: "bbbb")
    begin(path).measure("b", dict)
    content = read_results(path)
    assert content["commit"] == "aaaa"
    assert [point.get("commit") for point in content["points"]] == [None, "bbbb"]


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "bench-test"}'])
def test_a_file_that_is_none_of_ours_is_not_written_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bench-test.json"
    path.write_text(text)
    with pytest.raises(ResultError, match="expected a result file"):
        begin(path)
    assert path.read_text() == text


def test_a_figure_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        begin(tmp_path / "bench-test.json").measure("a", lambda: {"tiles_per_s": float("nan")})


def test_the_commit_says_whether_files_differ(tmp_path: Path) -> None:
    assert commit_of(tmp_path) == "unknown"
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], [*name, "commit", "-q", "--allow-empty", "-m", "a"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    clean = commit_of(tmp_path)
    assert len(clean) == 12
    (tmp_path / "a").write_text("a")
    subprocess.run(["git", "-C", str(tmp_path), "add", "a"], check=True)
    assert commit_of(tmp_path) == f"{clean} (dirty)"


def test_versions_leave_out_what_is_not_there() -> None:
    assert set(versions_of(["numpy", "no-such-package"])) == {"python", "numpy"}
    assert this_machine().memory_gb > 0.1
