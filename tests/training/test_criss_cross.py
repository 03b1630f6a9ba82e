"""Criss-cross attention against a loop over positions written from ARML eq. 1–2."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from export.signature import Signature
from export.to_onnx import to_onnx
from serving import modelconfig
from training.criss_cross import CrissCross
from training.errors import RecipeError

Array = npt.NDArray[np.float64]


def project(convolution: nn.Conv2d, features: Array) -> Array:
    """A 1×1 convolution of one image, (C, H, W) → (C′, H, W), position by position."""
    weight = convolution.weight.detach().double().numpy()[:, :, 0, 0]
    bias = np.zeros(len(weight)) if convolution.bias is None else convolution.bias.detach().double().numpy()
    projected = np.zeros((len(weight), *features.shape[1:]))
    for y in range(features.shape[1]):
        for x in range(features.shape[2]):
            projected[:, y, x] = weight @ features[:, y, x] + bias
    return projected


def loop(module: CrissCross, features: Array) -> Array:
    """Eq. 1–2 of one image: the column and the row of each position, the position itself once."""
    query, key, value = (project(convolution, features) for convolution in (module.query, module.key, module.value))
    height, width = features.shape[1:]
    result = features.copy()
    for y in range(height):
        for x in range(width):
            places = [(other, x) for other in range(height)] + [(y, other) for other in range(width) if other != x]
            assert len(places) == height + width - 1
            similarity = [float(query[:, y, x] @ key[:, v, u]) for v, u in places]
            shares = [math.exp(s - max(similarity)) for s in similarity]
            for share, (v, u) in zip(shares, places, strict=True):
                result[:, y, x] += share / sum(shares) * value[:, v, u]
    return result


def random_features(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(channels: int, key_channels: int, gamma: bool = False) -> CrissCross:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return CrissCross(channels, key_channels, gamma)


@pytest.mark.parametrize(("height", "width"), [(3, 5), (4, 2), (1, 4), (3, 1), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_position_attends_to_its_row_and_column(height: int, width: int, dtype: torch.dtype) -> None:
    module = seeded(6, 3).to(dtype)
    features = 3 * random_features(2, 6, height, width, dtype=dtype)  # shares that differ
    expected = np.stack([loop(module, image.double().numpy()) for image in features])
    torch.testing.assert_close(module(features), torch.from_numpy(expected).to(dtype))


def test_a_position_sees_its_row_and_column_alone() -> None:
    module = seeded(4, 2).double()
    features = random_features(1, 4, 4, 5).requires_grad_(True)
    module(features)[0, :, 1, 2].sum().backward()
    assert features.grad is not None
    seen = features.grad[0].abs().sum(dim=0) > 0
    expected = torch.zeros(4, 5, dtype=torch.bool)
    expected[1], expected[:, 2] = True, True
    assert torch.equal(seen, expected)


def test_gamma_starts_as_the_identity_and_learns() -> None:
    module = seeded(4, 2, gamma=True).double()
    features = random_features(1, 4, 3, 3)
    torch.testing.assert_close(module(features), features, rtol=0, atol=0)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    for _ in range(2):  # a gamma of 0 hides the convolutions from the first step
        optimizer.zero_grad()
        module(features).square().sum().backward()
        optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in module.named_parameters())


def test_gradient_reaches_every_parameter_of_the_paper_s_form() -> None:
    module = seeded(4, 2).double()
    module(random_features(2, 4, 3, 4)).square().sum().backward()
    assert {name for name, _ in module.named_parameters()} == {"query.weight", "query.bias", "key.weight", "value.weight", "value.bias"}
    assert all(value.grad is not None and value.grad.abs().max() > 1e-9 for value in module.parameters())


def test_gradient_is_the_function_s() -> None:
    module = seeded(3, 2).double()
    assert torch.autograd.gradcheck(module, (random_features(1, 3, 2, 3).requires_grad_(True),))


@pytest.mark.parametrize("axes", [(2,), (3,), (2, 3)])
def test_attention_of_a_mirrored_map_is_mirrored(axes: tuple[int, ...]) -> None:
    module = seeded(4, 2).double()
    features = random_features(2, 4, 3, 5)
    torch.testing.assert_close(module(features.flip(axes)), module(features).flip(axes))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 7)])
def test_half_precision_stays_finite_where_similarities_overflow(size: tuple[int, int]) -> None:
    module = seeded(8, 8).half()
    features = 2000 * random_features(1, 8, *size, dtype=torch.float32).half()
    with torch.no_grad():
        assert module.query(features).float().square().sum(dim=1).max() > 65504
        assert module(features).isfinite().all()


def test_graph_is_of_standard_operators_and_says_what_torch_says() -> None:
    import onnxruntime

    module = seeded(8, 2).eval()
    signature = Signature((modelconfig.Tensor("f", "TYPE_FP32", (8, 5, 7)),), (modelconfig.Tensor("g", "TYPE_FP32", (8, 5, 7)),))
    model = to_onnx(module, signature)  # opset 18, no GridSample, only the batch dynamic
    used = [node.op_type for node in model.graph.node]
    assert not {"Loop", "Scan", "If", "GatherND", "ScatterND"} & set(used)
    assert used.count("Softmax") == 1
    assert len(used) < 40  # nothing is unrolled over the 35 positions
    features = random_features(3, 8, 5, 7, dtype=torch.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (served,) = session.run(None, {"f": features.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(served), module(features), rtol=1e-4, atol=1e-5)


def test_no_channels_are_refused() -> None:
    with pytest.raises(RecipeError, match="at least 1 channel and 1 key channel, got 4 and 0"):
        CrissCross(4, 0)
