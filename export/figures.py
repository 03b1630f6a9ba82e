"""A measured figure, the figures of one graph in one engine, and the error they can become. Knows no limit's value and no network."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .errors import ParityError

Relation = Literal["<=", ">="]
Tiles = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Figure:
    """One measured figure beside its limit.

    Attributes:
        bound: None: told, not judged.
    """

    name: str
    value: float
    relation: Relation
    bound: float | None

    @property
    def limit(self) -> str:
        return "none" if self.bound is None else f"{self.relation} {self.bound:g}"

    @property
    def is_within(self) -> bool:
        """False for NaN, judged or not."""
        if self.bound is None:
            return not math.isnan(self.value)
        return self.value <= self.bound if self.relation == "<=" else self.value >= self.bound


@dataclass(frozen=True)
class Worst:
    """The tile whose labels differ most.

    Attributes:
        tile: uint8 (H, W, 3).
        expected: labels (H, W) of the reference; `got` of the graph.
        where: which tile, in which batch.
    """

    tile: Tiles
    expected: Labels
    got: Labels
    where: str


@dataclass(frozen=True)
class ParityReport:
    """The figures of one graph in one engine; what `parity.json` of a release holds.

    Attributes:
        tiles: how many it was measured on.
        reference: whose answer is expected.
        not_run: why the engine was not asked; then there are no figures.
    """

    graph: str
    tiles: int
    figures: tuple[Figure, ...]
    engine: str = "onnxruntime"
    reference: str = "torch"
    not_run: str | None = None
    worst: Worst | None = None

    @property
    def failures(self) -> tuple[Figure, ...]:
        return tuple(figure for figure in self.figures if not figure.is_within)

    def require(self) -> ParityReport:
        """The report itself.

        Raises:
            ParityError: a figure is outside its limit; the message lists all of those.
        """
        require_parity((self,))
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without pictures."""
        figures = [
            {"name": figure.name, "value": figure.value, "limit": figure.limit, "is_within": figure.is_within} for figure in self.figures
        ]
        entry = {"graph": self.graph, "engine": self.engine, "reference": self.reference, "tiles": self.tiles, "figures": figures}
        return entry if self.not_run is None else {**entry, "not_run": self.not_run}


def require_parity(reports: Sequence[ParityReport], consequence: str = "Nothing was published") -> None:
    """Do nothing where every figure is within its limit.

    Raises:
        ParityError: else; it carries the reports and lists every figure outside.
    """
    failed = [report for report in reports if report.failures]
    if not failed:
        return
    told = []
    for report in failed:
        listed = "; ".join(f"{figure.name} = {figure.value:.6g}, expected {figure.limit}" for figure in report.failures)
        told.append(
            f"{report.graph}: the exported graph does not keep parity with {report.reference} on {report.tiles} tiles in {report.engine}: {listed}"
        )
    raise ParityError(f"{'. '.join(told)}. {consequence}", reports)


def write_reports(reports: Sequence[ParityReport]) -> str:
    """`parity.json` of a frozen ensemble."""
    return json.dumps({"reports": [report.to_dict() for report in reports]}, indent=2) + "\n"
