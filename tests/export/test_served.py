"""A published release on the real embedded Triton: the server's canary accepts it, and every subset of the outputs is what torch and numpy say."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as grpcclient

from export import reference
from export.graphs import KindGraphs
from export.repository import publish
from serving.background import background_mask
from serving.contract import CAM, LABELS, PROBABILITIES, SCORES, SLIDE_OUTPUTS, TILE
from serving.embedded import EmbeddedTriton
from tests.export.networks import CAM_CELL_PX, DEMO, SEGMENT_CELL_PX, SmallClassifier, SmallSegmenter, draft, tissue_like

pytestmark = pytest.mark.triton


def infer(address: str, model: str, tiles: npt.NDArray[np.uint8], outputs: tuple[str, ...]) -> reference.Outputs:
    with grpcclient.InferenceServerClient(address, channel_args=[("grpc.enable_http_proxy", 0)]) as client:
        tile = grpcclient.InferInput(TILE, list(tiles.shape), "UINT8")
        tile.set_data_from_numpy(tiles)
        answer = client.infer(model, [tile], outputs=[grpcclient.InferRequestedOutput(name) for name in outputs])
        return {name: answer.as_numpy(name) for name in outputs}


def test_the_served_release_says_what_torch_says(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    publish(tmp_path, "demo", draft(graphs))
    tiles = tissue_like(3, seed=7)
    tiles[1, :100, 50:] = 250
    rule = DEMO.background
    assert rule is not None
    background = np.stack([background_mask(tile, rule.gray_above, rule.min_size_px) for tile in tiles]).astype(np.uint8)
    assert 0 < background.mean() < 1
    (logits,) = reference.run_network(SmallSegmenter().eval(), tiles, DEMO.normalization)
    segment = reference.segment_labels(reference.segment_outputs(logits, SEGMENT_CELL_PX), background, SEGMENT_CELL_PX)
    class_maps, cam_logits = reference.run_network(SmallClassifier().eval(), tiles, DEMO.normalization)
    cam = reference.cam_labels(reference.cam_outputs(class_maps, cam_logits, CAM_CELL_PX), background, CAM_CELL_PX)
    with EmbeddedTriton(tmp_path, ["demo_segment", "demo_cam"]) as server:
        for model, expected in (("demo_segment", segment), ("demo_cam", cam)):
            for count in range(1, len(expected) + 1):
                for outputs in itertools.combinations(expected, count):
                    served = infer(server.address, model, tiles, outputs)
                    for name in outputs:
                        assert_close(name, served[name], expected[name])
        of_slides = {
            "demo_r1_segment_slide": reference.segment_outputs(logits, SEGMENT_CELL_PX),
            "demo_r1_cam_slide": reference.cam_outputs(class_maps, cam_logits, CAM_CELL_PX),
        }
        for kind, (model, expected) in zip(SLIDE_OUTPUTS, of_slides.items(), strict=True):
            for name, values in infer(server.address, model, tiles, SLIDE_OUTPUTS[kind]).items():
                assert_close(name, values, expected[name])


def assert_close(name: str, served: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    assert (served.shape, served.dtype) == (expected.shape, expected.dtype)
    if name == LABELS:
        assert (served == expected).mean() >= 0.999
    else:
        bound = {PROBABILITIES: 1, CAM: 1e-4, SCORES: 1e-5}[name]
        assert np.abs(served.astype(float) - expected.astype(float)).max() <= bound
