"""The script for QuPath, as text: QuPath is not run here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from clients.placement import Placement
from clients.qupath import write_qupath_script
from serving.contract import TissueClass
from serving.tasks import get_task

PLACEMENT = Placement((2.0, 2.0), (4000, 3000), (37, 22), (0.5, 0.5))


def script(folder: Path, slide: str = "s.mrxs", polygons: str = "s.geojson.gz", name: str = "tumor") -> str:
    task = get_task("demo")
    task = dataclasses.replace(task, classes=(TissueClass(name, (1, 2, 3)), *task.classes[1:]))
    write_qupath_script(folder / "s.qupath.groovy", slide, polygons, "s.ome.zarr", task, PLACEMENT, (3900, 2900))
    return (folder / "s.qupath.groovy").read_text(encoding="utf-8")


def test_knows_the_file_the_classes_and_the_slide_s_size(tmp_path: Path) -> None:
    text = script(tmp_path)
    assert "def polygons = 's.geojson.gz'" in text
    assert f"def folder = '{tmp_path}'" in text
    assert "'tumor': [1, 2, 3], 'gland': " in text
    assert "def (expectedWidth, expectedHeight) = [3900, 2900]" in text
    assert "here x = 37, y = 22" in text
    assert "s.ome.zarr/labels/demo" in text


def test_brackets_are_balanced_and_nothing_is_left_of_the_template(tmp_path: Path) -> None:
    code = "\n".join(line for line in script(tmp_path).splitlines() if not line.startswith("//"))
    for opening, closing in ("()", "[]", "{}"):
        assert code.count(opening) == code.count(closing)
    assert "{{" not in code


def test_names_cannot_break_out_of_their_strings(tmp_path: Path) -> None:
    text = script(tmp_path, slide="a\nSystem.exit(1)", polygons="it's $here\\.gz", name='say "no"')
    assert r"def polygons = 'it\'s $here\\.gz'" in text  # single quotes: Groovy interpolates nothing
    assert "'say \"no\"': [1, 2, 3]" in text
    assert not any(line.startswith("System.exit") for line in text.splitlines())
