"""Recipes: TOML files that are lists of default flags. `@file.toml` among the arguments becomes flags in front of the user's own."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import RecipeError


def expand_recipes(argv: Sequence[str]) -> list[str]:
    """Replace `@file.toml` by its flags; the user's flags come after and win.

    Raises:
        RecipeError: the file is missing or no TOML.
    """
    recipes = [argument for argument in argv if argument.startswith("@")]
    flags = [flag for recipe in recipes for flag in _read(Path(recipe[1:]))]
    return flags + [argument for argument in argv if not argument.startswith("@")]


def _read(path: Path) -> Iterator[str]:
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise RecipeError(f"recipe {path}: expected a TOML file, cannot read it: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {path}: expected TOML: {error}") from error
    return _flags(content, "")


def _flags(table: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in table.items():
        name = f"{prefix}{key.replace('_', '-')}"
        if isinstance(value, dict):
            yield from _flags(value, f"{name}.")
        elif isinstance(value, bool):
            head, _, last = name.rpartition(".")
            yield f"--{name}" if value else f"--{head + '.' if head else ''}no-{last}"
        else:
            yield f"--{name}"
            yield from (str(entry) for entry in value) if isinstance(value, list) else (str(value),)
