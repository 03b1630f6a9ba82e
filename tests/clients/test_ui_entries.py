"""The page's list of models, from the model repository as it is now."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from clients.ui.entries import RepositoryEntries
from clients.ui.errors import AskedError
from serving.modelconfig import FILE_NAME
from tests.serving import tiny_release as tiny
from tests.serving.next_release import write_other_model


def test_entries_come_and_go(tmp_path: Path) -> None:
    entries = RepositoryEntries(tiny.write_tiny_release(tmp_path))
    assert entries() == (tiny.ENTRY,)  # no step, no release
    other = write_other_model(tmp_path)
    assert set(entries()) == {tiny.ENTRY, other}
    shutil.rmtree(tmp_path / other)
    assert entries() == (tiny.ENTRY,)


def test_a_damaged_neighbor_leaves_the_list_as_it_was_and_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entries = RepositoryEntries(tiny.write_tiny_release(tmp_path))
    assert entries() == (tiny.ENTRY,)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / FILE_NAME).write_text("name: ")
    assert (entries(), entries()) == ((tiny.ENTRY,), (tiny.ENTRY,))
    (record,) = caplog.records
    assert record.message.startswith("the list of models stays as it was: ")
    assert "half" in record.message
    shutil.rmtree(tmp_path / "half")
    assert entries() == (tiny.ENTRY,)


def test_a_repository_without_entries_is_told(tmp_path: Path) -> None:
    with pytest.raises(AskedError, match="expected an entry such as demo_segment, found none"):
        RepositoryEntries(tmp_path)()
