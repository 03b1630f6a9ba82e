"""Deformable attention without GridSample against torch and transformers; the Mask2Former decoder learns and exports."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from export.parity import check_network
from export.signature import network_signature
from export.to_onnx import to_onnx
from export.wrapper import SegmentNet
from serving.tasks import get_task
from training.deformable import multi_scale_deformable_attention, sample_bilinear
from training.errors import EncoderError
from training.pixel_decoder import Mask2FormerDecoder
from training.segmenter import Segmenter, SegmenterConfig
from training.tissue.patch import draw_patch

TASK = dataclasses.replace(get_task("demo"), tile_px=64)


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 6), width=st.integers(1, 7), seed=st.integers(0, 99))
def test_gathering_is_grid_sample(height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
    locations = torch.rand(2, 5, 4, 2, generator=generator, dtype=torch.float64) * 2 - 0.5  # far outside too
    locations[0, 0] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5 / width, 0.5 / height], [1 - 0.5 / width, 0.0]])
    expected = functional.grid_sample(maps, 2 * locations - 1, mode="bilinear", padding_mode="zeros", align_corners=False)
    sampled = sample_bilinear(maps.flatten(2).transpose(1, 2), height, width, locations)
    torch.testing.assert_close(sampled, expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_is_a_weighted_sum_over_levels_and_points(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3), (4, 5)]
    batch, heads, depth, queries, points = 2, 2, 3, 4, 3
    value = torch.randn(batch, 6 + 20, heads, depth, generator=generator, dtype=dtype)
    locations = torch.rand(batch, queries, heads, 2, points, 2, generator=generator, dtype=dtype) * 1.4 - 0.2
    weights = torch.rand(batch, queries, heads, 2, points, generator=generator, dtype=dtype)
    expected = torch.zeros(batch, queries, heads * depth, dtype=dtype)
    levels = value[:, :6], value[:, 6:]
    for b in range(batch):
        for q in range(queries):
            for head in range(heads):
                for level, (height, width) in enumerate(shapes):
                    plane = levels[level][b, :, head].T.reshape(1, depth, height, width)
                    grid = 2 * locations[b, q, head, level].view(1, 1, points, 2) - 1
                    found = functional.grid_sample(plane, grid, align_corners=False)[0, :, 0]
                    expected[b, q, head * depth : (head + 1) * depth] += (found * weights[b, q, head, level]).sum(-1)
    torch.testing.assert_close(multi_scale_deformable_attention(value, shapes, locations, weights), expected)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(SegmenterConfig("test_resnet", (1, 2, 3, 4), 4, 32, "mask2former", decoder_layers=1)).eval()


def test_gradient_reaches_every_parameter(segmenter: Segmenter) -> None:
    segmenter.zero_grad()
    logits = segmenter(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 5, 16, 16)
    torch.autograd.backward(logits.square().mean())
    # Within the encoder timm starts residual branches at zero; every stage it gives must be reached all the same.
    parts = {**dict(segmenter.decoder.named_parameters()), **dict(segmenter.head.named_parameters())}
    assert [name for name, value in parts.items() if value.grad is None or not value.grad.abs().sum()] == []
    body = segmenter.encoder.body.named_parameters()
    reached = {name.split(".")[0] for name, value in body if value.grad is not None and value.grad.abs().sum()}
    assert {"layer1", "layer2", "layer3", "layer4"} <= reached


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
