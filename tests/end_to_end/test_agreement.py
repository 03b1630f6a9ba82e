"""The trained torch networks, their ONNX files and the served ensembles say the same of the same tiles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as grpcclient

from clients.omezarr import read_label
from clients.segment import SegmentOptions, segment_slide
from clients.served_model import ServedModel
from export import reference
from serving.background import background_mask
from serving.canary import ask
from serving.contract import CAM, LABELS, PROBABILITIES, SCORES, SLIDE_OUTPUTS, TILE, Kind
from serving.embedded import EmbeddedTriton
from tests.clients.painted import write_slide
from training.checkpoint import Checkpoint, load
from training.tissue.patch import draw_patch

from .conftest import WholeWay

pytestmark = pytest.mark.triton
OUTPUTS = {"segment": (LABELS, PROBABILITIES), "cam": (LABELS, CAM, SCORES)}


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    """Tissue the network has not seen, glass at the edge of some."""
    return np.stack([draw_patch(5_000_000 + index)[0] for index in range(10)])


@pytest.fixture(scope="module")
def checkpoint(whole_way: WholeWay) -> Checkpoint:
    return load(whole_way.checkpoint)


@pytest.fixture(scope="module")
def server(whole_way: WholeWay) -> Iterator[EmbeddedTriton]:
    with EmbeddedTriton(whole_way.repository, ["demo_segment", "demo_cam"]) as started:
        yield started


def by_torch(checkpoint: Checkpoint, kind: str, tiles: np.ndarray) -> reference.Outputs:
    """Each tile alone through the torch network, decoded in numpy."""
    network = checkpoint.segment_network if kind == "segment" else checkpoint.cam_network
    assert network is not None
    raw = reference.run_network(network, tiles, checkpoint.task.normalization)
    if kind == "segment":
        return reference.segment_outputs(raw[0], checkpoint.segment_cell_px)
    return reference.cam_outputs(raw[0], raw[1], checkpoint.cam_cell_px)


def by_onnx(repository: Path, kind: str, tiles: np.ndarray) -> reference.Outputs:
    session = onnxruntime.InferenceSession(repository / f"demo_r1_{kind}_net" / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    return dict(zip(OUTPUTS[kind], session.run(list(OUTPUTS[kind]), {TILE: tiles}), strict=True))


def with_background(checkpoint: Checkpoint, kind: str, net: reference.Outputs, tiles: np.ndarray) -> reference.Outputs:
    rule = checkpoint.task.background
    assert rule is not None
    background = np.stack([background_mask(tile, rule.gray_above, rule.min_size_px) for tile in tiles]).astype(np.uint8)
    if kind == "segment":
        return reference.segment_labels(net, background, checkpoint.segment_cell_px)
    return reference.cam_labels(net, background, checkpoint.cam_cell_px)


def assert_agree(first: reference.Outputs, second: reference.Outputs) -> None:
    assert first.keys() == second.keys()
    for name, values in first.items():
        if name == LABELS:
            assert (values == second[name]).mean() >= 0.999
        else:
            limit = 1 if name == PROBABILITIES else 1e-3
            assert np.abs(values.astype(np.float64) - second[name].astype(np.float64)).max() <= limit, name


@pytest.mark.parametrize("kind", ["segment", "cam"])
def test_torch_onnx_and_served_agree(
    whole_way: WholeWay, checkpoint: Checkpoint, server: EmbeddedTriton, tiles: np.ndarray, kind: Kind
) -> None:
    torch_net, onnx_net = by_torch(checkpoint, kind, tiles), by_onnx(whole_way.repository, kind, tiles)
    assert_agree(torch_net, onnx_net)
    with grpcclient.InferenceServerClient(server.address) as client:
        served_net = ask(client, f"demo_r1_{kind}_net", tiles, OUTPUTS[kind])
        of_slides = ask(client, f"demo_r1_{kind}_slide", tiles, SLIDE_OUTPUTS[kind])
        served = ask(client, f"demo_{kind}", tiles, OUTPUTS[kind])
    assert_agree(torch_net, served_net)
    for name, values in of_slides.items():
        np.testing.assert_array_equal(values, served_net[name])
    assert_agree(with_background(checkpoint, kind, torch_net, tiles), served)
    assert len(np.unique(served[LABELS])) >= 4  # all of one class would agree with anything


def test_a_slide_of_one_tile_is_what_the_server_says_of_that_tile(server: EmbeddedTriton, tmp_path: Path) -> None:
    """Slide client and served ensemble state the background rule, the dequantizing and the upsampling alike, bit for bit."""
    tile, _ = draw_patch(5_000_013)
    path = write_slide(tmp_path / "one.tiff", tile, 0.5)
    with ServedModel(server.address, "demo_segment") as client:
        segment_slide(path, client, tmp_path, SegmentOptions(overlap=0), lambda done, total: None)
    with grpcclient.InferenceServerClient(server.address) as raw:
        served = ask(raw, "demo_segment", tile[None], (LABELS,))[LABELS][0]
    np.testing.assert_array_equal(read_label(tmp_path / "one.ome.zarr").labels, served)
