"""The state of an interrupted slide: whole or not at all, this run's or nobody's."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.errors import OutputError
from clients.fingerprint import Fingerprint
from clients.journal import Journal

PARTS = {"release": "r1", "reader": "native"}
ARRAYS: dict[str, np.ndarray] = {
    "row": np.array(7),
    "sum": np.random.default_rng(0).random((3, 4, 5), dtype=np.float32)[:, ::2],  # not contiguous
    "covered": np.array([[True, False]]),
    "empty": np.zeros((0, 3), np.float32),
}
FILES = {"labels/demo/0/c/0/0": 11}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "s.ome.zarr")
    made.save(Fingerprint(PARTS), ARRAYS, FILES)
    return made


def load(journal: Journal, **changed: str) -> Any:
    return journal.load(Fingerprint(PARTS | changed), FILES | {"zarr.json": 5})


def test_what_was_saved_comes_back(journal: Journal) -> None:
    saved = load(journal)
    assert saved.files == FILES
    assert list(saved.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(saved.arrays[name], array)
        assert saved.arrays[name].dtype == array.dtype


def test_only_the_newest_is_kept(journal: Journal, tmp_path: Path) -> None:
    journal.save(Fingerprint(PARTS), {"row": np.array(8)}, {})
    assert load(journal).arrays == {"row": 8}
    assert [path.name for path in tmp_path.iterdir()] == [".s.ome.zarr.state"]
    journal.discard()
    assert load(journal) is None
    assert list(tmp_path.iterdir()) == []


def test_another_run_s_is_not_mixed_in_and_the_warning_says_what_changed(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert load(journal, release="r2", tissue="abc") is None
    assert "since then changed: release (r1 → r2), tissue" in caplog.text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_any_damage_is_found(journal: Journal, data: st.DataObject) -> None:
    journal.save(Fingerprint(PARTS), ARRAYS, FILES)
    content = bytearray(journal.path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    journal.path.write_bytes(content)
    assert load(journal) is None


@pytest.mark.parametrize("present", [{}, {"labels/demo/0/c/0/0": 10}])
def test_strips_that_are_gone_or_changed_are_noticed(journal: Journal, present: dict[str, int], caplog: pytest.LogCaptureFixture) -> None:
    assert journal.load(Fingerprint(PARTS), present) is None
    assert "1 of its files are gone or of another size, e.g. labels/demo/0/c/0/0" in caplog.text


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_while_saving_leaves_the_state_before(journal: Journal, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(OutputError, match="No space left on device"):
            journal.save(Fingerprint(PARTS), {"row": np.array(9)}, {})
    assert load(journal).arrays["row"] == 7


def test_content_is_on_disk_before_its_name_changes(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def recorded(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any) -> Any:
            calls.append(name)
            return real(*arguments)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, recorded(name))
    journal.save(Fingerprint(PARTS), ARRAYS, FILES)
    assert calls == ["fsync", "replace", "fsync"]
