"""The shape of the tree: what every folder has, and what none may have."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import pytest

from histoserve import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGES = ["training", "export", "serving", "clients", "benchmarks"]


@pytest.mark.parametrize("folder", [*PACKAGES, "model_repository", "tests", "docker"])
def test_every_folder_explains_itself(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text()
    assert text.startswith("# ")
    assert f"]({folder}/README.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed_and_import_nothing_by_themselves(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
    assert all(path.read_text() == "" for path in (ROOT / package).rglob("__init__.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_are_small(package: str) -> None:
    long = {path.name: lines for path in (ROOT / package).rglob("*.py") if (lines := len(path.read_text().splitlines())) > 300}
    assert long == {}


def test_the_model_repository_is_data() -> None:
    assert not list((ROOT / "model_repository").glob("*.py"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_module_and_extra(command: str) -> None:
    module, extra, _ = COMMANDS[command]
    assert callable(importlib.import_module(module).main)
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
