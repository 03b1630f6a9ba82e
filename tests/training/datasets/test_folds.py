"""Splits by image: every image once, rare classes first, the same on every machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.datasets.annotated import AnnotatedImage
from training.datasets.folds import Split, deal_folds, draw_order, read_split, select_part, split_images, write_split
from training.errors import DataError, RecipeError

Presence = dict[str, tuple[int, int, int]]
# As in the crops at hand: two common classes, and a third on three images only, one of which holds nothing else.
LUNG: Presence = {f"{index:02d}.png": (int(index % 7 > 0), 1, int(index in (1, 3))) for index in range(30)} | {"68.png": (0, 0, 1)}

labels = st.tuples(*[st.integers(0, 1)] * 3)
presences = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), labels, min_size=1, max_size=40)


def test_each_fold_gets_one_image_of_the_rare_class() -> None:
    folds = deal_folds(LUNG, 3, seed=0)
    assert [sum(LUNG[name][2] for name in fold) for fold in folds] == [1, 1, 1]
    assert sorted(len(fold) for fold in folds) == [10, 10, 11]
    assert sorted(sum(LUNG[name][0] for name in fold) for fold in folds) == [8, 8, 9]


@given(presence=presences, count=st.integers(1, 5), seed=st.integers(0, 3))
def test_every_image_is_in_one_fold_and_the_rarest_class_is_even(presence: Presence, count: int, seed: int) -> None:
    folds = deal_folds(presence, count, seed)
    assert sorted(name for fold in folds for name in fold) == sorted(presence)
    rarest = min(range(3), key=lambda index: sum(held[index] for held in presence.values()))
    held = [sum(presence[name][rarest] for name in fold) for fold in folds]
    assert max(held) - min(held) <= 1


@given(presence=presences, seed=st.integers(0, 3))
def test_the_order_of_the_files_is_of_no_account(presence: Presence, seed: int) -> None:
    assert deal_folds(dict(reversed(presence.items())), 3, seed) == deal_folds(presence, 3, seed)


def test_the_draw_is_fixed_for_ever() -> None:
    """Folds are named in reports: they may never change with a version of anything."""
    assert sorted("abcdef", key=lambda name: draw_order(0, name)) == ["f", "c", "b", "e", "d", "a"]
    assert deal_folds(LUNG, 3, seed=0) != deal_folds(LUNG, 3, seed=1)


def test_the_fold_is_held_out() -> None:
    splits = [split_images(LUNG, 3, fold, seed=0) for fold in range(3)]
    assert sorted(name for split in splits for name in split.test) == sorted(LUNG)
    assert all(sorted(split.train + split.test) == sorted(LUNG) for split in splits)
    assert split_images(LUNG, 1, 0, seed=0) == Split(tuple(sorted(LUNG)), ())


@pytest.mark.parametrize(
    ("folds", "fold", "message"),
    [
        (0, 0, "--folds: expected 1…31, the number of images, got 0"),
        (32, 0, "--folds: expected 1…31, the number of images, got 32"),
        (3, 3, "--fold: expected 0…2, got 3"),
        (3, -1, "--fold: expected 0…2, got -1"),
    ],
)
def test_folds_that_there_are_not(folds: int, fold: int, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        split_images(LUNG, folds, fold, seed=0)


def test_the_file_says_what_is_held_out(tmp_path: Path) -> None:
    split = Split(("a.png", "b.png"), ("c.png",))
    write_split(tmp_path, split)
    path = tmp_path / "split.json"
    assert read_split(path) == split
    images = [AnnotatedImage(Path("img") / name, Path("mask") / name) for name in ("a.png", "b.png", "c.png")]
    assert select_part(images, path) == images[2:]
    assert select_part(images, path, "train") == images[:2]
    with pytest.raises(DataError, match=r"split\.json: expected the image 'c\.png' of part 'test' among those read, found none"):
        select_part(images[:2], path)
    write_split(tmp_path, Split(("a.png",), ()))
    with pytest.raises(DataError, match="expected images in part 'test', got none: cut with --folds 2 or more"):
        select_part(images, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"split\.json: expected JSON"),
        ("[]", "expected .* of image names, got something else"),
        ('{"train": ["a"]}', "expected .* of image names, got something else"),
        ('{"train": ["a"], "test": [1]}', "expected .* of image names, got something else"),
        ('{"train": ["a", "b"], "test": ["b"]}', "expected every image in one part, got 'b' in both"),
    ],
)
def test_a_split_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_split(tmp_path / "split.json")


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"split\.json: expected the split that `histoserve patches` wrote, found no file"):
        read_split(tmp_path / "split.json")
