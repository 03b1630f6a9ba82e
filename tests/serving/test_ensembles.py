"""How the real Triton runs our ensembles: branches at the same time, and a full queue that rejects instead of growing."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from serving.canary import ask
from serving.contract import LABELS, PROBABILITIES, TILE
from serving.embedded import EmbeddedTriton
from serving.modelconfig import PYTHON_FILE, ModelConfig, read_config, write_config

from . import tiny_release as tiny

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("triton")]

# Answers only after the other branch has begun, and encodes its tile in its answer.
MEETING = """
import time
from pathlib import Path
from typing import TypeAlias
import triton_python_backend_utils as pb_utils

def step(tiles):
    {body}

class TritonPythonModel:
    def execute(self, requests):
        Path({mine!r}).touch()
        deadline_s = time.monotonic() + 60
        while not Path({other!r}).exists():
            if time.monotonic() > deadline_s:
                error = pb_utils.TritonError("the other branch did not begin")
                return [pb_utils.InferenceResponse(error=error) for _ in requests]
            time.sleep(0.01)
        tiles = [pb_utils.get_input_tensor_by_name(request, "TILE").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(*step(tile))]) for tile in tiles]
"""
CELLS = """cells = tiles.reshape(len(tiles), 8, 4, 8, 4, 3)[:, :, 0, :, 0, :1].transpose(0, 3, 1, 2)
    return "PROBABILITIES", cells.repeat(5, axis=1)"""
MASK = """return "BACKGROUND", (tiles[..., 1] > 60).astype("uint8")"""


def test_network_and_background_rule_run_at_the_same_time(repository: Path, tmp_path: Path) -> None:
    """Each stand-in waits for the other to begin: one after the other, neither could answer."""
    marks = [str(tmp_path / name) for name in ("network", "background")]
    for name, body, (mine, other) in ((tiny.NET, CELLS, marks), (tiny.RULE_STEP, MASK, marks[::-1])):
        config = read_config(repository / name)
        assert isinstance(config, ModelConfig)
        write_config(repository / name, dataclasses.replace(config, backend="python", parameters={}, queue_delay_us=0, max_queue_size=None))
        (repository / name / "1" / PYTHON_FILE).write_text(MEETING.format(body=body, mine=mine, other=other))
    tiles = tiny.random_tiles(2, seed=1)
    add_plain(repository, tiny.RELEASE)
    with EmbeddedTriton(repository, ["plain"]) as server, grpcclient.InferenceServerClient(server.address) as client:
        served = ask(client, "plain", tiles, (LABELS,))[LABELS]
    np.testing.assert_array_equal(served, (tiles[..., 1] > 60) * 2)


def add_plain(repository: Path, model: str) -> None:
    """An ensemble without its contract, as "plain": it needs no release and no canary."""
    config = dataclasses.replace(read_config(repository / model), name="plain", parameters={})
    (repository / "plain" / "1").mkdir(parents=True)
    write_config(repository / "plain", config)


BATCHES = [tiny.random_tiles(1, seed=seed) for seed in range(12)]
Answer: TypeAlias = tiny.Tiles | InferenceServerException


def call_at_once(client: grpcclient.InferenceServerClient, model: str) -> list[Answer]:
    def call(tiles: tiny.Tiles) -> Answer:
        given = grpcclient.InferInput(TILE, list(tiles.shape), "UINT8")
        given.set_data_from_numpy(tiles)
        try:
            levels: tiny.Tiles = client.infer(model, [given]).as_numpy(PROBABILITIES)
        except InferenceServerException as error:
            return error
        return levels

    with ThreadPoolExecutor(len(BATCHES)) as pool:
        return list(pool.map(call, BATCHES))


@pytest.fixture
def narrow(repository: Path) -> Path:
    """Two requests wait for the network until the batcher's two seconds are over."""
    config = read_config(repository / tiny.NET)
    assert isinstance(config, ModelConfig)
    write_config(repository / tiny.NET, dataclasses.replace(config, queue_delay_us=2_000_000, max_queue_size=2))
    return repository


def test_a_full_queue_rejects_and_its_neighbors_are_answered(narrow: Path) -> None:
    """Who comes while two wait is told so, through the ensemble of the network alone."""
    add_plain(narrow, tiny.SLIDE)
    with EmbeddedTriton(narrow, ["plain"]) as server, grpcclient.InferenceServerClient(server.address) as client:
        answers = call_at_once(client, "plain")
        again = ask(client, "plain", BATCHES[0], (PROBABILITIES,))[PROBABILITIES]
    rejected = [answer for answer in answers if isinstance(answer, InferenceServerException)]
    assert 0 < len(rejected) < len(BATCHES)
    assert {error.status() for error in rejected} == {"StatusCode.UNAVAILABLE"}
    assert all("Exceeds maximum queue size" in error.message() for error in rejected)
    for tiles, answer in zip(BATCHES, answers, strict=True):
        if not isinstance(answer, InferenceServerException):
            np.testing.assert_array_equal(answer, tiny.net_probabilities(tiles))
    np.testing.assert_array_equal(again, tiny.net_probabilities(BATCHES[0]))


def test_a_limit_beside_another_step_does_not_end_the_server(narrow: Path) -> None:
    """2.51 would die of it (SIGSEGV): the view of the wheel's lane leaves that limit out, and all are answered."""
    with EmbeddedTriton(narrow, [tiny.ENTRY]) as server, grpcclient.InferenceServerClient(server.address) as client:
        for tiles, answer in zip(BATCHES, call_at_once(client, tiny.ENTRY), strict=True):
            assert not isinstance(answer, InferenceServerException), answer
            np.testing.assert_array_equal(answer, tiny.expected(tiles)[PROBABILITIES])
        server.require_running()
