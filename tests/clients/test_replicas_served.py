"""Two real Tritons under one stream of batches, one of them killed and started again by its supervisor."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clients.replicas import ReplicatedModel
from serving.contract import PROBABILITIES
from serving.embedded import EmbeddedTriton
from tests.serving import tiny_release as tiny
from tests.serving.processes import with_word

pytestmark = pytest.mark.triton
PATIENCE_S = 120.0


def test_one_of_two_is_killed_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    repository = tiny.write_tiny_release(tmp_path / "model_repository")
    with (
        EmbeddedTriton(repository, [tiny.ENTRY]) as stays,
        EmbeddedTriton(repository, [tiny.ENTRY]) as goes,
        ReplicatedModel([stays.address, goes.address], tiny.ENTRY) as model,
    ):
        address = goes.address
        is_back = f"{address}: the server is back"

        def batches() -> Iterator[tuple[int, np.ndarray]]:
            """Until the server is back, and some more."""
            left, end_s = 20, time.monotonic() + PATIENCE_S
            for number in range(1_000_000):
                if number == 5:
                    _kill(goes)
                left -= is_back in caplog.text
                if not left or time.monotonic() > end_s:
                    return
                time.sleep(0.02)  # leaves the processor to the server that starts
                yield number, tiny.random_tiles(8, seed=number)

        count = 0
        for number, outputs in model.stream(batches(), 2):
            assert number == count
            np.testing.assert_array_equal(outputs[PROBABILITIES], tiny.net_probabilities(tiny.random_tiles(8, seed=number)))
            count += 1
        assert stays.restarts == ()
    assert count > 20
    assert any(line.startswith(address) and "its batches go to the other servers" in line for line in caplog.messages)
    assert is_back in caplog.text


def _kill(server: EmbeddedTriton) -> None:
    port = f"--grpc-port={server.address.split(':')[1]}"
    (pid,) = [pid for pid, line in with_word(port).items() if Path(line.split()[0]).name == "tritonserver"]
    os.kill(pid, signal.SIGKILL)
