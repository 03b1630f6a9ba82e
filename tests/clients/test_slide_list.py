"""Files, folders, patterns and lists: which slides, in which order, at which scale."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.errors import SlideError
from clients.slide_list import SlideEntry, find_slides


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("in/b.svs", "in/a.NDPI", "in/notes.txt", "in/deep/c.tiff", "in/[x].svs"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path / "in"


def found(*arguments: object, lists: tuple[Path, ...] = ()) -> list[str]:
    return [entry.path.name for entry in find_slides([str(argument) for argument in arguments], lists)]


def test_a_file_is_taken_whatever_it_is_called_and_whether_it_is_there(folder: Path) -> None:
    assert found(folder / "notes.txt", folder / "absent.svs") == ["notes.txt", "absent.svs"]


def test_a_folder_gives_its_slides_by_name(folder: Path) -> None:
    assert found(folder) == ["[x].svs", "a.NDPI", "b.svs"]


def test_a_pattern_gives_what_fits_it(folder: Path) -> None:
    assert found(folder / "**" / "*.*") == ["[x].svs", "a.NDPI", "b.svs", "c.tiff", "notes.txt"]
    assert found(folder / "?.svs") == ["b.svs"]
    assert found(folder / "[x].svs") == ["[x].svs"]  # a file of that very name


def test_each_slide_once_in_the_order_of_the_arguments(folder: Path) -> None:
    assert found(folder / "b.svs", folder, folder / "deep" / ".." / "b.svs") == ["b.svs", "[x].svs", "a.NDPI"]


def test_a_list_gives_slides_beside_it_with_their_scale(folder: Path) -> None:
    path = folder / "list.csv"
    path.write_text("\ufeffslide,note,mpp\nb.svs,x,0.25\n deep/c.tiff ,,\n/elsewhere/d.svs,y, 0.5 \n", encoding="utf-8")
    assert find_slides([], [path]) == [
        SlideEntry(folder / "b.svs", 0.25),
        SlideEntry(folder / "deep/c.tiff", None),
        SlideEntry(Path("/elsewhere/d.svs"), 0.5),
    ]
    path.write_text("slide\nb.svs\n")
    assert find_slides([], [path]) == [SlideEntry(folder / "b.svs", None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,mpp\nb.svs,1\n", r"list\.csv: expected a column 'slide' in the first line, got \['name', 'mpp'\]"),
        ("", "expected a column 'slide'"),
        ("slide,mpp\n", "expected at least one slide"),
        ("slide,mpp\nb.svs,0.25\nc.svs,many\n", "line 3: expected micrometers per pixel in the column 'mpp', got 'many'"),
        ("slide,mpp\n,0.25\n", "line 2: expected a slide, got none"),
    ],
)
def test_a_malformed_list_is_told(folder: Path, content: str, message: str) -> None:
    (folder / "list.csv").write_text(content)
    with pytest.raises(SlideError, match=message):
        find_slides([], [folder / "list.csv"])


def test_nothing_found_is_an_error(folder: Path) -> None:
    (folder / "empty").mkdir()
    for argument, message in {
        folder / "empty": r"empty: expected slides in this folder",
        folder / "*.scn": r"\*\.scn: expected files that fit this pattern, found none",
    }.items():
        with pytest.raises(SlideError, match=message):
            found(argument)
    with pytest.raises(SlideError, match=r"absent\.csv: expected a CSV file of slides"):
        found(lists=(folder / "absent.csv",))


def test_two_masks_of_one_name_are_refused(folder: Path) -> None:
    (folder / "deep" / "b.ndpi").write_text("")
    with pytest.raises(SlideError, match=r"b\.ndpi: expected slides with different names.*b\.svs is called the same"):
        found(folder, folder / "deep")


def test_two_scales_of_one_slide_are_refused(folder: Path) -> None:
    (folder / "list.csv").write_text("slide,mpp\nb.svs,0.25\nb.svs,0.5\n")
    with pytest.raises(SlideError, match=r"expected one scale, got 0\.25 and 0\.5"):
        find_slides([], [folder / "list.csv"])
