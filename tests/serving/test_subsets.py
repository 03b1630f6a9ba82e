"""Every subset of the outputs of the release that ships, of each kind of entry: what is asked for is in its record, and nothing else comes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest
import tritonclient.grpc as grpcclient

from serving.canary import CANARY_FILE, ask, ask_files, compare, read_canary, read_tolerance
from serving.check import parse_contract
from serving.contract import CAM, LABELS, PROBABILITIES, SCORES, TILE
from serving.embedded import EmbeddedTriton
from serving.modelconfig import read_config
from serving.triton_install import SERVING_FOLDER

REPOSITORY = SERVING_FOLDER.parent / "model_repository"
ENTRIES = {
    "default_segment": {LABELS, PROBABILITIES},
    "default_segment_image": {LABELS, PROBABILITIES},
    "default_cam": {CAM, SCORES, LABELS},
}
pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.usefixtures("triton")]


@pytest.fixture(scope="module")
def shipped() -> Iterator[grpcclient.InferenceServerClient]:
    with EmbeddedTriton(REPOSITORY, tuple(ENTRIES)) as server, grpcclient.InferenceServerClient(server.address) as connected:
        yield connected


@pytest.mark.parametrize("entry", ENTRIES)
def test_each_subset_of_the_outputs(shipped: grpcclient.InferenceServerClient, entry: str) -> None:
    contract = parse_contract(read_config(REPOSITORY / entry))
    assert contract is not None
    path = REPOSITORY / contract.release / CANARY_FILE
    record = read_canary(path)
    tiles = record.pop(TILE)
    assert set(record) == ENTRIES[entry]
    asked = ask if contract.takes == "tile" else ask_files
    for count in range(1, len(record) + 1):
        for outputs in combinations(sorted(record), count):
            served = asked(shipped, entry, tiles, outputs)
            assert set(served) == set(outputs)
            for name in outputs:
                compare(entry, name, record[name], served[name], read_tolerance(path))
