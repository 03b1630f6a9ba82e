"""A result file: what was measured, where, with what, by which command; an interrupted run goes on in it. Knows no measurement."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import ResultError
from .machine import commit_of, this_machine, versions_of

Point = dict[str, Any]
_FIELDS = ("kind", "machine", "versions", "commit", "command", "created", "settings", "points", "ratios")
_MUST_AGREE = ("kind", "settings", "machine", "versions")
_PACKAGES = ("histoserve", "numpy", "tritonclient", "grpcio", "onnxruntime", "openvino")


class Results:
    """One result file, written anew after each point.

        results = Results.begin(path, "bench-server", command, settings)
        results.measure("closed 4", lambda: {"tiles_per_s": …})  # kept, not measured again, where the file has it
        results.finish({"p99_over_mdc": 1.1})

    Args:
        content: as `read_results` gives it.
        commit: of the source that measures now.
    """

    def __init__(self, path: Path, content: dict[str, Any], commit: str) -> None:
        self.path = path
        self.content = content
        self._commit = commit

    @classmethod
    def begin(
        cls, path: Path, kind: str, command: str, settings: Mapping[str, Any], *, packages: Iterable[str] = (), fresh: bool = False
    ) -> Results:
        """Go on with the file where it holds a run of the same kind, settings, machine and versions; else start one.

        Args:
            settings: what changes a figure, and nothing else: plain JSON.
            packages: whose versions are told beside the common ones.
            fresh: start anew, whatever the file holds.

        Raises:
            ResultError: the file holds another run.
        """
        content = _blank(kind, command, settings, packages)
        if path.exists() and not fresh:
            return cls(path, _resumed(path, content), content["commit"])
        return cls(path, content, content["commit"])

    @property
    def points(self) -> dict[str, Point]:
        """Name → point, in the order in which they were measured."""
        return {point["name"]: point for point in self.content["points"]}

    def measure(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> Point:
        """The point of this name: out of the file, or measured now and written at once.

        A point that is measured by another commit than the file's names its own.
        """
        known = self.points.get(name)
        if known is not None:
            return known
        load_1min = round(os.getloadavg()[0], 2)  # what else the machine was doing
        point: Point = _plain({"name": name, **measure(), "load_1min": load_1min})
        if self._commit != self.content["commit"]:
            point["commit"] = self._commit
        self.content["points"].append(point)
        self.write()
        return point

    def finish(self, ratios: Mapping[str, float | None]) -> None:
        """The ratios, which are the result; None = could not be measured."""
        self.content["ratios"] = _plain(dict(ratios))
        self.write()

    def write(self) -> None:
        """Atomic: a reader finds the file before or after, never in between."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text(json.dumps(self.content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, self.path)


def read_results(path: Path) -> dict[str, Any]:
    """The file's content.

    Raises:
        ResultError: it cannot be read, or is no result file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(
            f"{path}: expected a result file of `histoserve bench`, cannot read it: {error}: remove it, or name another"
        ) from error
    missing = [field for field in _FIELDS if not isinstance(content, dict) or field not in content]
    if missing:
        raise ResultError(f"{path}: expected a result file of `histoserve bench`, it lacks {', '.join(missing)}: name another file")
    return dict(content)


def _blank(kind: str, command: str, settings: Mapping[str, Any], packages: Iterable[str]) -> dict[str, Any]:
    created = datetime.now(UTC).isoformat(timespec="seconds")
    content: dict[str, Any] = _plain(
        {
            "kind": kind,
            "machine": asdict(this_machine()),
            "versions": versions_of([*_PACKAGES, *packages]),
            "commit": commit_of(),
            "command": command,
            "created": created,
            "settings": dict(settings),
            "points": [],
            "ratios": {},
        }
    )
    return content


def _resumed(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The file's own content: its command and time stay those of the first run."""
    found = read_results(path)
    for field in _MUST_AGREE:
        if found[field] != wanted[field]:
            raise ResultError(
                f"{path}: it holds a run with other {field}: expected {_difference(wanted[field], found[field])}: "
                "give --fresh to measure anew, or another --output"
            )
    return found


def _difference(wanted: Any, found: Any) -> str:
    """Only what differs."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        keys = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
        wanted, found = {key: wanted.get(key) for key in keys}, {key: found.get(key) for key in keys}
    return f"{wanted}, got {found}"


def _plain(value: Any) -> Any:
    """As JSON gives it back, so that what was measured now equals what the file has: tuples are lists, keys are text.

    Raises:
        ValueError: NaN or infinity, which JSON does not know: a figure that is not there is None.
    """
    return json.loads(json.dumps(value, ensure_ascii=False, allow_nan=False))
