"""Flags as the command that measures the same again, and as the settings of a result file. Knows no flag by its meaning."""

from __future__ import annotations

import shlex
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

_NO_SETTINGS = ("output", "fresh")  # where the figures go, and whether old ones count: no figure depends on them


def command_of(name: str, flags: Any, positional: str = "model") -> str:
    """`histoserve bench NAME …` with the flags that are not as they stand by default.

    Args:
        positional: the field without a flag of its own, where there is one.
    """
    words = ["histoserve", "bench", name, *_words(getattr(flags, positional, ()))]
    default = type(flags)()
    for each in fields(flags):
        value = getattr(flags, each.name)
        if each.name not in (positional, "fresh") and value != getattr(default, each.name):
            words += [f"--{each.name.replace('_', '-')}", *_words(value)]
    return shlex.join(words)


def _words(value: Any) -> list[str]:
    """Of a flag's value; a flag that is on or off has none."""
    return [] if value is True else [str(each) for each in (value if isinstance(value, tuple) else (value,))]


def settings_of(flags: Any) -> dict[str, Any]:
    """Those that change a figure, as plain JSON."""
    kept = {name: value for name, value in asdict(flags).items() if name not in _NO_SETTINGS}
    return {name: str(value) if isinstance(value, Path) else value for name, value in kept.items()}
