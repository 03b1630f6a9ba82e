"""Three segmenters as one: the softmax of the output is the mean of the members' probabilities."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from export.signature import Signature
from export.to_onnx import to_onnx
from serving import modelconfig
from training.errors import RecipeError
from training.mean_segmenter import MeanSegmenter


class Member(nn.Module):
    """A segmenter of one convolution."""

    def __init__(self, seed: int, cell_px: int = 4, has_background: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Conv2d(3, 5, cell_px, cell_px)
        self.cell_px = cell_px
        self.has_background = has_background

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images)
        return 5 * logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_output_s_softmax_is_the_mean_probability(dtype: torch.dtype) -> None:
    members = [Member(seed).to(dtype) for seed in range(3)]
    images = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0), dtype=dtype)
    output = MeanSegmenter(members)(images)
    assert output.shape == (2, 5, 2, 3)
    expected = sum((member(images).softmax(dim=1) / 3 for member in members), torch.zeros_like(output))
    torch.testing.assert_close(output.softmax(dim=1), expected)
    torch.testing.assert_close(output.exp(), expected)


def test_a_channel_that_no_member_believes_in_is_no_infinity() -> None:
    members = [Member(seed) for seed in range(3)]
    output = MeanSegmenter(members)(torch.full((1, 3, 4, 4), 1e4))
    assert output.isfinite().all()


def test_one_member_gives_its_probabilities_and_the_interface_is_the_members_own() -> None:
    network = MeanSegmenter([Member(0, cell_px=2, has_background=True)])
    assert (network.cell_px, network.has_background) == (2, True)
    images = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(images), network.networks[0](images).log_softmax(dim=1))
    assert len(list(MeanSegmenter([Member(0), Member(1)]).parameters())) == 4


@pytest.mark.parametrize("members", [[], [Member(0), Member(1, cell_px=2)], [Member(0), Member(1, has_background=True)]])
def test_members_that_cannot_be_averaged_are_refused(members: list[nn.Module]) -> None:
    with pytest.raises(RecipeError, match=r"same \(cell_px, has_background\), got .*(no network|\(2, False\)|\(4, True\))"):
        MeanSegmenter(members)


def test_the_graph_says_what_torch_says() -> None:
    network = MeanSegmenter([Member(seed) for seed in range(3)]).eval()
    signature = Signature((modelconfig.Tensor("x", "TYPE_FP32", (3, 8, 8)),), (modelconfig.Tensor("y", "TYPE_FP32", (5, 2, 2)),))
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(to_onnx(network, signature).SerializeToString(), providers=["CPUExecutionProvider"])
    (served,) = session.run(None, {"x": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(served), network(images), rtol=1e-4, atol=1e-5)
