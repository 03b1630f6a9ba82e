"""Splits by image: dealt into folds with rare classes first, written to and read from `split.json`. Opens no image. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import DataError, RecipeError
from .annotated import AnnotatedImage

SPLIT_FILE = "split.json"


@dataclass(frozen=True)
class Split:
    """File names of the images to train on and of those held out for the test; no name is in both."""

    train: tuple[str, ...]
    test: tuple[str, ...]


def deal_folds(presence: Mapping[str, Sequence[int]], folds: int, seed: int) -> list[list[str]]:
    """Deal images into folds so that every class, the rarest first, is spread as evenly as it goes.

    Each image goes to the fold with the fewest images of its rarest class, then with the fewest images. The order within a class is that of
    a hash of seed and name: the same on every machine, whatever order the files are listed in.

    Args:
        presence: image name → 0 or 1 per class.
        folds: at least 1, at most as many as there are images.
    """
    num_classes = max((len(labels) for labels in presence.values()), default=0)
    holders = [[name for name, labels in presence.items() if labels[index]] for index in range(num_classes)]
    dealt: list[list[str]] = [[] for _ in range(folds)]
    left = set(presence)
    for group in (*sorted(holders, key=len), list(presence)):  # the last: images that hold no class
        members = set(group)
        for name in sorted(left & members, key=lambda name: draw_order(seed, name)):
            fold = min(range(folds), key=lambda index: (len(members.intersection(dealt[index])), len(dealt[index]), index))
            dealt[fold].append(name)
        left -= members
    return [sorted(names) for names in dealt]


def split_images(presence: Mapping[str, Sequence[int]], folds: int, fold: int, seed: int) -> Split:
    """The images outside fold `fold` to train on, those in it to test on; one fold means that all train.

    Raises:
        RecipeError: more folds than images, or no such fold.
    """
    if not 1 <= folds <= len(presence):
        raise RecipeError(f"--folds: expected 1…{len(presence)}, the number of images, got {folds}")
    if not 0 <= fold < folds:
        raise RecipeError(f"--fold: expected 0…{folds - 1}, got {fold}")
    if folds == 1:
        return Split(tuple(sorted(presence)), ())
    test = deal_folds(presence, folds, seed)[fold]
    return Split(tuple(sorted(set(presence) - set(test))), tuple(test))


def draw_order(seed: int, name: str) -> bytes:
    """Sorting by this shuffles names, by seed, the same on every machine."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()


def write_split(folder: Path, split: Split) -> None:
    """Write `split.json`."""
    content = {"train": list(split.train), "test": list(split.test)}
    (folder / SPLIT_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_split(path: Path) -> Split:
    """Read a `split.json`.

    Raises:
        DataError: missing, no JSON, without the two lists of names, or with a name in both.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: expected the split that `histoserve patches` wrote, found no file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected JSON: {error}") from error
    names = [raw.get(part) if isinstance(raw, dict) else None for part in ("train", "test")]
    if not all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in names):
        raise DataError(f'{path}: expected {{"train": […], "test": […]}} of image names, got something else: cut the patches again')
    train, test = (tuple(part) for part in names if part is not None)
    both = sorted(set(train) & set(test))
    if both:
        raise DataError(f"{path}: expected every image in one part, got {both[0]!r} in both: a test on it would say nothing")
    return Split(train, test)


def select_part(images: Sequence[AnnotatedImage], path: Path, part: Literal["train", "test"] = "test") -> list[AnnotatedImage]:
    """The images that a `split.json` puts in a part, in its order.

    Raises:
        DataError: the file cannot be read, the part is empty, or one of its images is not there.
    """
    split = read_split(path)
    names = split.test if part == "test" else split.train
    if not names:
        raise DataError(f"{path}: expected images in part {part!r}, got none: cut with --folds 2 or more to hold images out")
    by_name = {annotated.image.name: annotated for annotated in images}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise DataError(f"{path}: expected the image {missing[0]!r} of part {part!r} among those read, found none: give the same data")
    return [by_name[name] for name in names]
