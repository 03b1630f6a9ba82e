from __future__ import annotations

from pathlib import Path

import pytest
import torch

from serving.tasks import get_task
from training.checkpoint import Checkpoint, load, save
from training.classifier import Classifier, ClassifierConfig
from training.encoder import Encoder, copy_encoder
from training.errors import CheckpointError, EncoderError
from training.segmenter import Segmenter, SegmenterConfig


@pytest.mark.parametrize(("name", "stages"), [("test_resnet", (2, 3)), ("test_vit", (0,)), ("swin_tiny_patch4_window7_224", (1, 2))])
def test_encoder_gives_nchw_features_of_the_stated_channels_and_strides(name: str, stages: tuple[int, ...]) -> None:
    size = 160 if name == "test_vit" else 224
    encoder = Encoder(name, stages).eval()
    with torch.no_grad():
        features = encoder(torch.zeros(2, 3, size, size))
    for feature, channels, stride in zip(features, encoder.channels, encoder.strides, strict=True):
        assert feature.shape == (2, channels, size // stride, size // stride)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnetfoo", (1,)), "expected a name that timm knows"),
        (("test_resnet", (9,)), r"cannot be built with stages \(9,\)"),
        (("test_resnet", (3, 2)), "expected ascending, different stages"),
        (("test_resnet", (2,), False, Path("absent.pth")), "expected a checkpoint file at absent.pth"),
    ],
)
def test_encoder_errors_name_the_remedy(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        Encoder(*arguments)  # type: ignore[arg-type]


def test_encoder_starts_from_a_local_checkpoint_file(tmp_path: Path) -> None:
    import timm

    whole = timm.create_model("test_resnet", num_classes=7)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    encoder = Encoder("test_resnet", (1,), weights=tmp_path / "weights.pth")
    torch.testing.assert_close(encoder.state_dict()["body.conv1.0.weight"], whole.state_dict()["conv1.0.weight"])
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(EncoderError, match=r"broken\.pth, cannot read them"):
        Encoder("test_resnet", (1,), weights=tmp_path / "broken.pth")


def test_logits_are_the_mean_of_the_class_maps_plus_bias() -> None:
    network = Classifier(ClassifierConfig("test_resnet", (2, 3), 4)).eval()
    with torch.no_grad():
        class_maps, logits = network(torch.randn(2, 3, 96, 96))
        assert network.head.bias is not None
        torch.testing.assert_close(logits, class_maps.mean(dim=(2, 3)) + network.head.bias)
    assert class_maps.shape == (2, 4, 96 // network.cell_px, 96 // network.cell_px)


def open_residuals(network: torch.nn.Module) -> torch.nn.Module:
    """timm starts a block's last normalization at 0, which hides the block from the first gradient."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    return network


def test_gradient_reaches_every_parameter_of_both_networks() -> None:
    classifier = open_residuals(Classifier(ClassifierConfig("test_resnet", (2, 3), 4)))
    classifier(torch.randn(4, 3, 96, 96))[1].square().sum().backward()
    segmenter = open_residuals(Segmenter(SegmenterConfig("test_resnet", (1, 2, 3), 4, 16)))
    segmenter(torch.randn(4, 3, 96, 96)).square().sum().backward()
    for network in (classifier, segmenter):
        silent = [name for name, parameter in network.named_parameters() if parameter.grad is None or parameter.grad.abs().sum() == 0]
        assert silent == []


def test_segmenter_starts_from_the_classifier_s_encoder() -> None:
    classifier = Classifier(ClassifierConfig("test_resnet", (2, 3), 4))
    segmenter = Segmenter(SegmenterConfig("test_resnet", (1, 2), 4, 16))
    copy_encoder(classifier.encoder, segmenter.encoder)
    source = classifier.encoder.state_dict()
    for name, value in segmenter.encoder.state_dict().items():
        torch.testing.assert_close(value, source[name])


def make_checkpoint() -> Checkpoint:
    return Checkpoint(
        task=get_task("demo"),
        method="pscl",
        cam_network=Classifier(ClassifierConfig("test_resnet", (2, 3), 4)).eval(),
        segment_network=Segmenter(SegmenterConfig("test_resnet", (1, 2, 3), 4, 16)).eval(),
        provenance={"patches": 3},
    )


def test_checkpoint_comes_back_as_it_went(tmp_path: Path) -> None:
    saved = make_checkpoint()
    save(tmp_path / "checkpoint.pt", saved)
    loaded = load(tmp_path / "checkpoint.pt")
    assert (loaded.task, loaded.method, loaded.provenance) == (saved.task, "pscl", {"patches": 3})
    assert (loaded.cam_cell_px, loaded.segment_cell_px) == (8, 4)
    images = torch.randn(2, 3, 224, 224)
    assert loaded.segment_network is not None
    assert loaded.cam_network is not None
    assert saved.segment_network is not None
    assert saved.cam_network is not None
    with torch.no_grad():
        torch.testing.assert_close(loaded.cam_network(images)[1], saved.cam_network(images)[1])
        torch.testing.assert_close(loaded.segment_network(images), saved.segment_network(images))


def test_checkpoint_from_before_there_was_a_choice_of_decoder(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save(path, make_checkpoint())
    content = torch.load(path, weights_only=True)
    for field in ("decoder", "decoder_layers"):
        del content["segmenter"]["config"][field]
    del content["segmenter"]["kind"]
    torch.save(content, path)
    network = load(path).segment_network
    assert isinstance(network, Segmenter)
    assert network.config.decoder == "fpn"


def test_checkpoint_errors_name_file_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent.pt: expected a checkpoint, found no file: train one"):
        load(tmp_path / "absent.pt")
    (tmp_path / "broken.pt").write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match=r"broken.pt: expected a histoserve checkpoint"):
        load(tmp_path / "broken.pt")
    torch.save({"version": 99}, tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match="expected checkpoint version 1, got 99"):
        load(tmp_path / "new.pt")


@pytest.mark.parametrize("name", ["swinv2_cr_tiny_224", "swin_tiny_patch4_window7_224"])
def test_windowed_transformers_take_the_tile_s_size(name: str) -> None:
    encoder = Encoder(name, (0, 1), image_px=128).eval()
    with torch.no_grad():
        features = encoder(torch.randn(1, 3, 128, 128))
    assert [tuple(feature.shape[2:]) for feature in features] == [(32, 32), (16, 16)]
    assert encoder.strides == (4, 8)
