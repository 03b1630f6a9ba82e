"""Parts of a list: each slide in exactly one, and always in the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.shard import Shard
from clients.slide_list import SlideEntry

ENTRIES = [SlideEntry(Path(f"in/slide_{number}.svs"), 0.25) for number in range(200)]


@given(st.lists(st.text(min_size=1).filter(lambda name: Path(name).name == name), unique=True), st.integers(1, 20))
def test_every_slide_is_in_one_part(names: list[str], count: int) -> None:
    entries = [SlideEntry(Path(name)) for name in names]
    parts = [Shard(index, count).take(entries) for index in range(count)]
    taken = [entry for part in parts for entry in part]
    assert sorted(taken, key=entries.index) == entries
    assert len(taken) == len(entries)


def test_a_slide_stays_in_its_part_whatever_else_is_there_and_wherever_it_lies() -> None:
    part = Shard(2, 7).take(ENTRIES)
    assert Shard(2, 7).take(ENTRIES[::-3]) == [entry for entry in ENTRIES[::-3] if entry in part]
    moved = [SlideEntry(Path("/mnt/elsewhere") / entry.path.name) for entry in ENTRIES]
    assert [entry.path.name for entry in Shard(2, 7).take(moved)] == [entry.path.name for entry in part]


def test_the_split_is_the_same_on_every_machine_and_forever() -> None:
    assert [entry.path.stem for entry in Shard(0, 50).take(ENTRIES)] == ["slide_30", "slide_44", "slide_70", "slide_157"]


def test_parts_are_of_about_one_size() -> None:
    assert all(10 <= len(Shard(index, 10).take(ENTRIES)) <= 32 for index in range(10))


@pytest.mark.parametrize("text", ["3", "10/10", "0/0", "-1/3", "1/3/5", "a/3", "1 /3", "٣/٤"])
def test_what_is_no_part_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"--shard .*: expected I/N with I from 0 to N - 1"):
        Shard.parse(text)


def test_the_first_is_0() -> None:
    assert Shard.parse("0/10") == Shard(0, 10)
    assert Shard.parse("9/10") == Shard(9, 10)
