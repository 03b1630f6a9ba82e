"""UNet++ and PSPNet against the library's own networks and torch's pooling; grids, gradients, checkpoints, targets without background."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from serving.tasks import get_task
from training.checkpoint import Checkpoint, load, save
from training.datasets.placement import IGNORE_LABEL
from training.errors import EncoderError, RecipeError
from training.schedule import Schedule
from training.segmenter import Segmenter, SegmenterConfig
from training.smp_decoders import PspNet, UnetPlusPlus, pool_shares, resize_shares
from training.stage_two import StageTwo, StageTwoOptions

from segmentation_models_pytorch.base.modules import SCSEModule  # isort: skip
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder  # isort: skip

TASK = dataclasses.replace(get_task("demo"), tile_px=64)
NESTED = SegmenterConfig("test_resnet", (0, 1, 2), 4, 16, "unetplusplus", image_px=64, has_background=False, attention="scse")
POOLED = SegmenterConfig("test_resnet", (1, 2), 4, 16, "pspnet", image_px=64, has_background=False)


def open_residuals(network: torch.nn.Module) -> torch.nn.Module:
    """timm starts a block's last normalization at 0, which hides the block from the first gradient; and all of scSE's few units may start silent."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
        if isinstance(module, SCSEModule):
            torch.nn.init.constant_(module.cSE[1].bias, 3)
    return network


@pytest.mark.parametrize(
    ("decoder", "stages", "cell_px"),
    [
        ("unetplusplus", (0, 1, 2), 4),  # answers per pixel, averaged
        ("unetplusplus", (1, 2), 4),  # per 2 px
        ("unetplusplus", (2, 3), 4),
        ("unetplusplus", (3, 4), 8),  # coarser: kept
        ("pspnet", (0,), 4),  # stride 2, averaged
        ("pspnet", (1,), 4),
        ("pspnet", (1, 2), 8),
        ("pspnet", (0, 3), 16),
        ("fpn", (0, 1), 2),
        ("fpn", (1, 2), 4),
    ],
)
@pytest.mark.parametrize("has_background", [True, False])
def test_logits_lie_on_the_stated_grid(decoder: str, stages: tuple[int, ...], cell_px: int, has_background: bool) -> None:
    config = SegmenterConfig("test_resnet", stages, 4, 16, decoder, image_px=64, has_background=has_background)  # type: ignore[arg-type]
    network = Segmenter(config).eval()
    assert network.cell_px == cell_px
    assert network.has_background == has_background
    with torch.no_grad():
        logits = network(torch.randn(2, 3, 64, 96))
    assert logits.shape == (2, 4 + has_background, 64 // cell_px, 96 // cell_px)


def test_a_finer_answer_is_averaged_over_each_cell() -> None:
    torch.manual_seed(0)
    network = Segmenter(NESTED).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        fine = network.head(network.decoder(network.encoder(images)))
        cells = network(images)
    assert fine.shape[2:] == (32, 32)
    for y in range(8):
        for x in range(8):
            torch.testing.assert_close(cells[0, :, y, x], fine[0, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean(dim=(1, 2)))


@pytest.mark.parametrize("cells", [1, 2, 3, 6])
@pytest.mark.parametrize("length", [1, 2, 5, 7, 8, 28])
def test_shares_are_torch_s_pooling_and_resize(cells: int, length: int) -> None:
    values = torch.randn(1, 1, length, dtype=torch.float64)
    pooled = values @ torch.tensor(pool_shares(length, cells), dtype=torch.float64).T
    torch.testing.assert_close(pooled, functional.adaptive_avg_pool1d(values, cells))
    few = torch.randn(1, 1, cells, 1, dtype=torch.float64)
    resized = torch.tensor(resize_shares(cells, length), dtype=torch.float64) @ few
    torch.testing.assert_close(resized, functional.interpolate(few, size=(length, 1), mode="bilinear", align_corners=True))


@pytest.mark.parametrize("grid", [(28, 28), (7, 9), (4, 3)])
def test_pspnet_is_the_library_s(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = PspNet((8, 12), (4, 8), 16).eval()
    library = PSPDecoder([8, 12], out_channels=16).eval()
    library.load_state_dict({key.removeprefix("body.").replace("project.", "pool.1."): value for key, value in ours.state_dict().items()})
    pyramid = [torch.randn(2, 8, 2 * grid[0], 2 * grid[1]), torch.randn(2, 12, *grid)]
    with torch.no_grad():
        torch.testing.assert_close(ours(pyramid), library(pyramid), atol=1e-5, rtol=1e-5)


def test_unetplusplus_has_the_library_s_channels() -> None:
    decoder = UnetPlusPlus((16, 24, 40, 112, 320), (2, 4, 8, 16, 32), 16)  # efficientnet-b0, as PistoSeg has it
    assert tuple(decoder.body.out_channels) == (256, 128, 64, 32, 16)
    assert decoder.stride == 1


@pytest.mark.parametrize("config", [NESTED, POOLED])
@pytest.mark.parametrize("batch", [1, 3])
def test_gradient_reaches_every_parameter(config: SegmenterConfig, batch: int) -> None:
    torch.manual_seed(0)
    network = open_residuals(Segmenter(config))  # in training, where a batch of one must not break a normalization
    network(torch.randn(batch, 3, 64, 64)).square().sum().backward()
    assert [name for name, value in network.named_parameters() if value.grad is None or not value.grad.abs().sum()] == []


@pytest.mark.parametrize("config", [NESTED, POOLED])
def test_a_row_answers_as_it_does_alone_and_always_the_same(config: SegmenterConfig) -> None:
    torch.manual_seed(0)
    network, images = Segmenter(config).eval(), torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        together = network(images)
        assert torch.equal(network(images), together)  # no dropout
        for row in range(3):
            torch.testing.assert_close(network(images[row : row + 1])[0], together[row], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["unetplusplus", "pspnet"])
def test_decoders_turn_with_their_pyramid(kind: str) -> None:
    """Flip equivariance of what is between the convolutions: with kernels that are their own mirror image, the decoder must be too."""
    torch.manual_seed(0)
    decoder = (UnetPlusPlus((8, 12), (4, 8), 16) if kind == "unetplusplus" else PspNet((8, 12), (4, 8), 16)).eval()
    with torch.no_grad():
        for module in decoder.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.copy_((module.weight + module.weight.flip(3)) / 2)
    pyramid = [torch.randn(2, 8, 16, 14), torch.randn(2, 12, 8, 7)]
    with torch.no_grad():
        flipped = decoder([feature.flip(3) for feature in pyramid])
        torch.testing.assert_close(flipped, decoder(pyramid).flip(3), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [NESTED, POOLED])
def test_learns_in_mixed_precision(config: SegmenterConfig) -> None:
    torch.manual_seed(0)
    network = Segmenter(config)
    images = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    torch.autograd.backward(logits.float().square().mean())
    assert all(value.grad is not None and value.grad.isfinite().all() for value in network.decoder.parameters())


@pytest.mark.parametrize("config", [NESTED, POOLED])
def test_comes_back_from_a_checkpoint(config: SegmenterConfig, tmp_path: Path) -> None:
    saved = Segmenter(config).eval()
    save(tmp_path / "checkpoint.pt", Checkpoint(TASK, "arml", None, saved, {}))
    loaded = load(tmp_path / "checkpoint.pt")
    assert loaded.segment_network is not None
    assert loaded.segment_network.config == config
    assert loaded.segment_cell_px == saved.cell_px
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.segment_network(images), saved(images))


def test_a_checkpoint_from_before_there_was_a_choice_has_a_background(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save(path, Checkpoint(TASK, "pscl", None, Segmenter(SegmenterConfig("test_resnet", (1, 2), 4, 8)).eval(), {}))
    content = torch.load(path, weights_only=True)
    for field in ("has_background", "attention"):
        del content["segmenter"]["config"][field]
    torch.save(content, path)
    network = load(path).segment_network
    assert network is not None
    assert network.has_background


@pytest.mark.parametrize(("channels", "strides"), [((8, 8), (8, 8)), ((8, 8), (4, 16)), ((8,), (4,)), ((8, 8), (1, 2))])
def test_unetplusplus_refuses_strides_that_do_not_double(channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
    with pytest.raises(EncoderError, match=r"UNet\+\+ decoder: expected two or more decoder stages, each of twice the stride before"):
        UnetPlusPlus(channels, strides, 16)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(EncoderError, match="at least 16 channels everywhere for attention scse, got 8"):
        UnetPlusPlus((16, 32), (4, 8), 8, "scse")
    with pytest.raises(EncoderError, match="multiple of 4 channels, got 10"):
        PspNet((8, 10), (4, 8), 16)
    with pytest.raises(RecipeError, match="attention scse with decoder unetplusplus alone, got fpn"):
        SegmenterConfig("test_resnet", (1, 2), 4, 16, attention="scse")
    with pytest.raises(RecipeError, match="a background or at least two classes to tell apart, got 1 and none"):
        SegmenterConfig("test_resnet", (1, 2), 1, 16, has_background=False)


def stage_two(network: Segmenter, options: StageTwoOptions) -> StageTwo:
    module = StageTwo(network, TASK, Schedule(), options, 10)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    return module


def batch_of(target: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (len(target), 3, 64, 64), dtype=torch.uint8, generator=generator)
    return {"image": image, "target": target, "confidence": torch.rand(len(target), 4, 64, 64, generator=generator)}


LOSSES = [StageTwoOptions("cross_entropy"), StageTwoOptions("easy_examples"), StageTwoOptions("noise_reduced")]


@pytest.mark.parametrize("options", LOSSES, ids=lambda options: options.loss)
def test_without_background_stage_two_learns_nothing_from_label_zero(options: StageTwoOptions) -> None:
    torch.manual_seed(0)
    network = Segmenter(POOLED).eval()  # no dropout, no noise
    module = stage_two(network, options).eval()
    nothing = torch.zeros(2, 64, 64, dtype=torch.int64)
    assert float(module.training_step(batch_of(nothing), 0).detach()) == 0
    target = torch.randint(1, 5, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    target[0, :20], target[1, :, 40:] = 0, IGNORE_LABEL
    loss = module.training_step(batch_of(target), 0)
    as_ignored = module.training_step(batch_of(torch.where(target == 0, IGNORE_LABEL, target)), 0)
    torch.testing.assert_close(loss, as_ignored)
    network.train()
    torch.autograd.backward(module.training_step(batch_of(target), 0))
    assert all(value.grad is not None and value.grad.isfinite().all() for value in network.parameters())


def test_without_background_class_c_is_channel_c_minus_one() -> None:
    torch.manual_seed(0)
    network = Segmenter(POOLED).eval()
    module = stage_two(network, StageTwoOptions()).eval()
    with torch.no_grad():
        network.head.weight.zero_()
        assert network.head.bias is not None
        for label in range(1, 5):
            network.head.bias.copy_(torch.eye(4)[label - 1] * 20)
            right = module.training_step(batch_of(torch.full((2, 64, 64), label)), 0)
            wrong = module.training_step(batch_of(torch.full((2, 64, 64), label % 4 + 1)), 0)
            assert float(right) == pytest.approx(0, abs=1e-6)
            assert float(wrong) == pytest.approx(20, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "stages"), [("resnet38", (0, 1, 2)), ("swin_tiny_patch4_window7_224", (0, 1, 2, 3))])
def test_takes_other_encoders(encoder: str, stages: tuple[int, ...]) -> None:
    for decoder, cell_px in (("unetplusplus", 4), ("pspnet", 8 if encoder == "resnet38" else 32)):
        network = Segmenter(SegmenterConfig(encoder, stages, 4, 16, decoder, has_background=False)).eval()  # type: ignore[arg-type]
        assert network.cell_px == cell_px
        with torch.no_grad():
            assert network(torch.randn(1, 3, 224, 224)).shape == (1, 4, 224 // cell_px, 224 // cell_px)
