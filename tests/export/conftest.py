"""Graphs exported once for all tests of the folder."""

from __future__ import annotations

import pytest

from export.graphs import KindGraphs
from tests.export.networks import both_kinds


@pytest.fixture(scope="session")
def graphs() -> tuple[KindGraphs, ...]:
    """(segment, cam) of the demo task."""
    return both_kinds()
