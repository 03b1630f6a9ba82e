"""The Mask2Former decoder: the library's features and starting weights, gradients, half precision, checkpoint, export."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.parity import check_network
from export.signature import network_signature
from export.to_onnx import to_onnx
from export.wrapper import SegmentNet
from serving.tasks import get_task
from training.checkpoint import Checkpoint, load, save
from training.errors import EncoderError
from training.pixel_decoder import Mask2FormerDecoder
from training.segmenter import Segmenter, SegmenterConfig
from training.tissue.patch import draw_patch

from transformers.models.mask2former import modeling_mask2former as mask2former  # isort: skip
from transformers.models.oneformer.modeling_oneformer import multi_scale_deformable_attention as library_attention  # isort: skip

TASK = dataclasses.replace(get_task("demo"), tile_px=64)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(SegmenterConfig("test_resnet", (1, 2, 3, 4), 4, 32, "mask2former", decoder_layers=1)).eval()


def attentions_of(module: torch.nn.Module) -> list[Any]:
    return [part for part in module.modules() if hasattr(part, "sampling_offsets")]


def test_is_the_library_s_decoder(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = segmenter(images)
        monkeypatch.setattr(mask2former, "multi_scale_deformable_attention", library_attention)
        torch.testing.assert_close(segmenter(images), ours)


def test_attention_starts_on_rings_around_each_cell() -> None:
    """Zhu et al. 2021, appendix A.4: offsets of 1, 2, … cells, each head in a direction of its own, whatever the cell holds."""
    decoder = Mask2FormerDecoder([8, 8, 8, 8], [4, 8, 16, 32], 128, layers=2)
    attentions = attentions_of(decoder)
    assert len(attentions) == 2
    for attention in attentions:
        assert not attention.sampling_offsets.weight.any()
        assert not attention.attention_weights.weight.any()
        offsets = attention.sampling_offsets.bias.detach().view(4, 3, 4, 2)  # heads, levels, points
        rings = torch.arange(1.0, 5.0).expand(4, 3, 4)
        torch.testing.assert_close(offsets.abs().amax(dim=-1), rings)
        torch.testing.assert_close(offsets[:, 0, 0], torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))


def test_gradient_reaches_every_parameter(segmenter: Segmenter) -> None:
    network = copy.deepcopy(segmenter).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)  # timm starts a block's last normalization at 0, which hides the block
    for attention in attentions_of(network):
        torch.nn.init.normal_(attention.sampling_offsets.weight, std=0.01)  # starts at 0 too, which hides the levels' embeddings
    logits = network(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 5, 16, 16)
    torch.autograd.backward(logits.square().mean())
    assert [name for name, value in network.named_parameters() if value.grad is None or not value.grad.abs().sum()] == []


def test_learns_in_mixed_precision(segmenter: Segmenter) -> None:
    network = copy.deepcopy(segmenter)
    images = torch.randn(2, 3, 224, 224)  # 28×28 cells: more than bfloat16 can count
    with torch.no_grad():
        expected = network(images)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    torch.testing.assert_close(logits.float(), expected, atol=0.1 * float(expected.abs().max()), rtol=0)
    torch.autograd.backward(logits.float().square().mean())
    assert all(value.grad is not None and value.grad.isfinite().all() for value in network.decoder.parameters())


def test_a_row_answers_as_it_does_alone(segmenter: Segmenter) -> None:
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        together = segmenter(images)
        for row in range(3):
            torch.testing.assert_close(segmenter(images[row : row + 1])[0], together[row], atol=1e-5, rtol=1e-4)


def test_comes_back_from_a_checkpoint(segmenter: Segmenter, tmp_path: Path) -> None:
    config = dataclasses.replace(segmenter.config, decoder_layers=2)
    saved = Segmenter(config).eval()
    save(tmp_path / "checkpoint.pt", Checkpoint(TASK, "supervised", None, saved, {}))
    loaded = load(tmp_path / "checkpoint.pt").segment_network
    assert loaded is not None
    assert loaded.config == config
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images), saved(images))


@pytest.mark.slow
def test_exports_without_grid_sample_and_keeps_parity(segmenter: Segmenter) -> None:
    graph = to_onnx(SegmentNet(segmenter, TASK.normalization, segmenter.cell_px), network_signature("segment", TASK, segmenter.cell_px))
    assert not [node.op_type for node in graph.graph.node if node.op_type == "GridSample"]
    tiles = np.stack([draw_patch(index, 64)[0] for index in range(8)])
    assert check_network("segment", segmenter, graph, TASK, segmenter.cell_px, tiles).failures == ()


def test_refuses_other_strides_and_widths() -> None:
    with pytest.raises(EncoderError, match=r"strides \(4, 8, 16, 32\), got \(8, 16\)"):
        Mask2FormerDecoder([8, 8], [8, 16], 32)
    with pytest.raises(EncoderError, match="multiple of 32, got 48"):
        Mask2FormerDecoder([8, 8, 8, 8], [4, 8, 16, 32], 48)
