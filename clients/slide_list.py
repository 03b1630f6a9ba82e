"""Which slides a run is about: files, folders, patterns and lists become slides with their scale. Knows no pixels."""

from __future__ import annotations

import csv
import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import SlideError
from .zarr_slide import is_zarr

# What is taken out of a folder; a file that is named is tried whatever it is called.
SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".dcm", ".czi")
SLIDE, MPP = "slide", "mpp"  # the columns of a list
_WILD = frozenset("*?[")


@dataclass(frozen=True)
class SlideEntry:
    """One slide of a run.

    Attributes:
        mpp: micrometers per level-0 pixel, from the list; None = the run's, else what the slide says.
    """

    path: Path
    mpp: float | None = None


def find_slides(arguments: Sequence[str], lists: Sequence[Path]) -> list[SlideEntry]:
    """The slides that arguments and lists name, in their order, each once.

    Args:
        arguments: files; folders, whose slides are taken by name (not those of folders within); patterns such as "in/**/*.svs".
        lists: CSV files with a column `slide` (relative to the list's folder) and, where wanted, `mpp`.

    Raises:
        SlideError: a folder, pattern or list without slides, a malformed list, or two slides whose masks would have one name.
    """
    found = [entry for argument in arguments for entry in _from_argument(argument)]
    found += [entry for path in lists for entry in _from_list(path)]
    entries: dict[Path, SlideEntry] = {}
    for entry in found:
        known = entries.setdefault(entry.path.resolve(), entry)
        if known.mpp != entry.mpp:
            raise SlideError(f"{entry.path}: expected one scale, got {known.mpp} and {entry.mpp} µm per pixel: list it once")
    by_name: dict[str, Path] = {}
    for entry in entries.values():
        other = by_name.setdefault(entry.path.stem, entry.path)
        if other != entry.path:
            raise SlideError(
                f"{entry.path}: expected slides with different names, since each names its mask, "
                f"{other} is called the same: segment them into different folders"
            )
    return list(entries.values())


def _from_argument(argument: str) -> Iterator[SlideEntry]:
    path = Path(argument)
    if path.is_dir() and not is_zarr(path):
        slides = sorted(child for child in path.iterdir() if child.suffix.lower() in SUFFIXES and child.is_file())
        what = f"{path}: expected slides in this folder ({', '.join(SUFFIXES)}), found none: check the path"
    elif _WILD.isdisjoint(argument) or path.exists():
        slides, what = [path], ""
    else:
        slides = [child for child in map(Path, sorted(glob.glob(argument, recursive=True))) if child.is_file() or is_zarr(child)]
        what = f"{argument}: expected files that fit this pattern, found none: check it"
    if not slides:
        raise SlideError(what)
    for slide in slides:
        yield SlideEntry(slide)


def _from_list(path: Path) -> Iterator[SlideEntry]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if SLIDE not in (rows.fieldnames or ()):
                raise SlideError(f"{path}: expected a column {SLIDE!r} in the first line, got {rows.fieldnames}: add it")
            entries = [_from_row(path, rows.line_num, row) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SlideError(f"{path}: expected a CSV file of slides, cannot read it: {error}") from error
    if not entries:
        raise SlideError(f"{path}: expected at least one slide, found none below the first line")
    yield from entries


def _from_row(path: Path, line: int, row: dict[str, str | None]) -> SlideEntry:
    name, mpp = (row.get(SLIDE) or "").strip(), (row.get(MPP) or "").strip()
    if not name:
        raise SlideError(f"{path}: line {line}: expected a slide, got none")
    try:
        return SlideEntry(path.parent / name, float(mpp) if mpp else None)
    except ValueError:
        raise SlideError(f"{path}: line {line}: expected micrometers per pixel in the column {MPP!r}, got {mpp!r}") from None
