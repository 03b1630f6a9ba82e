"""An export that is stopped anywhere leaves a repository that the server takes, with the previous release or the new one behind each entry."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import release as release_module
from export.canary import canary_arrays, canary_tiles
from export.engines import ONNX_RUNTIME
from export.graphs import KindGraphs
from export.layout import KINDS
from export.listing import list_releases
from export.parity import MIN_TILES
from export.published import measure_published, read_published
from export.release import Draft
from export.removal import remove
from export.repository import current_release, get_release, publish, roll_back
from serving.check import check_repository, entry_names
from tests.export.networks import DEMO, tissue_like

pytestmark = pytest.mark.slow

STEPS = ("rename", "replace", "fsync")


class Stopped(Exception):
    """Stands for whatever stops an export."""


@pytest.fixture(scope="module")
def drafts(graphs: tuple[KindGraphs, ...]) -> Draft:
    return Draft(DEMO, "pscl", graphs, canary_tiles(DEMO.tile_px), {})


@pytest.fixture(autouse=True)
def quick_canary(graphs: tuple[KindGraphs, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary's arrays are computed once: they are no part of what is tested here."""
    arrays = {kind.kind: canary_arrays(kind, DEMO.background, canary_tiles(DEMO.tile_px)) for kind in graphs}
    monkeypatch.setattr(release_module, "canary_arrays", lambda kind, rule, tiles: arrays[kind.kind])


def require_served(repository: Path) -> list[str | None]:
    """What each entry answers as: a whole release, byte for byte as it was published."""
    check_repository(repository, entry_names(repository))
    states = {entry.prefix: entry.state for entry in list_releases(repository, "demo")}
    behind = [current_release(repository, "demo", kind) for kind in KINDS]
    assert all(frozen is not None and states[frozen.rpartition("_")[0]] == "whole" for frozen in behind)
    assert set(states.values()) <= {"whole", "incomplete"}
    return behind


def count_calls(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> dict[str, int]:
    calls = dict.fromkeys(STEPS, 0)
    with monkeypatch.context() as patch:
        for step in STEPS:
            patch.setattr(os, step, partial(_counted, calls, step, getattr(os, step)))
        call()
    return calls


def _counted(calls: dict[str, int], step: str, original: Callable[..., Any], *arguments: Any) -> Any:
    calls[step] += 1
    return original(*arguments)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: str, number: int, call: Callable[[], Any]) -> None:
    """Run the call, stopped just before the given call of that function of `os`."""
    left = [number]
    original = getattr(os, step)

    def stopping(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Stopped
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, step, stopping)
        with pytest.raises(Stopped):
            call()


OLD, MIXED, NEW = (True, True), (False, True), (False, False)  # which entries still take r1: segment, cam


@pytest.mark.parametrize(
    ("step", "expected"),
    [("rename", {OLD}), ("replace", {OLD, MIXED}), pytest.param("fsync", {OLD, MIXED, NEW}, marks=pytest.mark.slow)],
)
def test_stopped_at_any_step_of_publishing(
    tmp_path: Path, drafts: Draft, monkeypatch: pytest.MonkeyPatch, step: str, expected: set[tuple[bool, bool]]
) -> None:
    publish(tmp_path, "demo", drafts)
    calls = count_calls(monkeypatch, lambda: publish(tmp_path, "demo", drafts))
    assert calls["rename"] == 11  # one per model of the release
    assert calls["replace"] == 3  # one per entry
    assert calls["fsync"] > 50
    roll_back(tmp_path, "demo", 1)
    seen = set()
    for number in range(calls[step]):
        stop_at(monkeypatch, step, number, partial(publish, tmp_path, "demo", drafts))
        behind = require_served(tmp_path)
        seen.add(tuple(frozen is not None and frozen.startswith("demo_r1_") for frozen in behind))
        roll_back(tmp_path, "demo", 1)
        for entry in list_releases(tmp_path, "demo")[1:]:  # what is left can be removed, whole or not
            remove(tmp_path, "demo", int(entry.prefix.rpartition("_r")[2]))
    assert seen == expected
    assert publish(tmp_path, "demo", drafts).number > 2


def test_stopped_at_any_step_of_the_first_release(tmp_path: Path, drafts: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no previous release: no entry, or one that works."""
    calls = count_calls(monkeypatch, lambda: publish(tmp_path / "counted", "demo", drafts))
    for number in range(calls["rename"]):
        repository = tmp_path / str(number)
        stop_at(monkeypatch, "rename", number, partial(publish, repository, "demo", drafts))
        entries = [kind for kind in KINDS if current_release(repository, "demo", kind) is not None]
        assert entries == ([] if number < 12 else ["segment"])
        if entries:
            check_repository(repository, entry_names(repository))
        publish(repository, "demo", drafts)
        require_served(repository)


def test_stopped_at_any_step_of_removing(tmp_path: Path, drafts: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half removed release is none, and can be removed again."""
    for _ in range(2):
        publish(tmp_path, "demo", drafts)
    calls = count_calls(monkeypatch, lambda: remove(tmp_path, "demo", 1))
    assert calls["rename"] == 11
    for number in (0, 1, 2, 5, 10):
        older = publish(tmp_path, "demo", drafts).number
        publish(tmp_path, "demo", drafts)
        stop_at(monkeypatch, "rename", number, partial(remove, tmp_path, "demo", older))
        require_served(tmp_path)
        states = {entry.prefix: entry.state for entry in list_releases(tmp_path, "demo")}
        assert states[f"demo_r{older}"] == ("whole" if number == 0 else "incomplete")
        remove(tmp_path, "demo", older)


KILLED = """
import os, pickle, signal, sys
from pathlib import Path
from export.repository import publish

repository, drafts, renames = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
rename, replace, done = os.rename, os.replace, []

def killing(original):
    def moved(*arguments):
        original(*arguments)
        done.append(arguments)
        if len(done) == renames:
            os.kill(os.getpid(), signal.SIGKILL)
    return moved

os.rename, os.replace = killing(rename), killing(replace)
publish(repository, "demo", pickle.loads(drafts.read_bytes()))
"""


@pytest.mark.parametrize(("moves", "expected"), [(4, ["demo_r1_segment", "demo_r1_cam"]), (12, ["demo_r2_segment", "demo_r1_cam"])])
def test_killed(tmp_path: Path, drafts: Draft, moves: int, expected: list[str]) -> None:
    """SIGKILL after the fourth model, and between both entries: no `finally` runs."""
    repository = tmp_path / "repository"
    publish(repository, "demo", drafts)
    (tmp_path / "draft").write_bytes(
        pickle.dumps(dataclasses.replace(drafts, graphs=tuple(dataclasses.replace(kind, reports=()) for kind in drafts.graphs)))
    )
    arguments = [sys.executable, "-c", KILLED, str(repository), str(tmp_path / "draft"), str(moves)]
    done = subprocess.run(arguments, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (repository / ".staging").is_dir()  # the next export clears it away
    assert require_served(repository) == expected
    release = get_release(repository, "demo", 1)
    for kind in KINDS:  # and it still answers, to the bit
        reports = measure_published(read_published(repository, release, kind), tissue_like(MIN_TILES), None, (ONNX_RUNTIME,))
        assert not [figure for report in reports for figure in report.failures]
    assert publish(repository, "demo", drafts).number == 3
    require_served(repository)
    assert not (repository / ".staging").exists()
    assert np.all([entry.state == "whole" for entry in list_releases(repository) if entry.current])
