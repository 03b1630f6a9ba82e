"""The command on a real checkpoint of timm encoders, and what it says when something is wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from export.cli import main
from export.repository import releases
from serving.check import check_repository
from tests.export.networks import DEMO, tissue_like
from training.checkpoint import Checkpoint, save
from training.classifier import Classifier, ClassifierConfig
from training.segmenter import Segmenter, SegmenterConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both networks on a real timm encoder, untrained."""
    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig("test_resnet", (2, 3), num_classes=4, image_px=64)).eval()
    segmenter = Segmenter(SegmenterConfig("test_resnet", (1, 2, 3), num_classes=4, width=16, image_px=64)).eval()
    path = tmp_path_factory.mktemp("trained") / "checkpoint.pt"
    task = dataclasses.replace(DEMO, tile_px=64)
    save(path, Checkpoint(task, "pscl", classifier, segmenter, {"command": "a test"}))
    return path


def test_a_checkpoint_becomes_a_release(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiles = tmp_path / "tiles"
    tiles.mkdir()
    for index, tile in enumerate(tissue_like(8)):
        Image.fromarray(tile).save(tiles / f"{index}.png")
    repository = tmp_path / "repository"
    assert main([str(checkpoint), "--repository", str(repository), "--name", "small", "--tiles", str(tiles)]) == 0
    printed = capsys.readouterr().out
    assert "label_agreement" in printed
    assert "small_segment now answers as small_r1_segment" in printed
    assert str(repository / "small_r1_segment") in printed
    check_repository(repository, ["small_segment", "small_cam"])
    text = (repository / "small_r1_segment" / "release.json").read_text()
    notes = json.loads(text)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert notes["checkpoint"] == {"file": "checkpoint.pt", "sha256": digest}
    assert [found.checkpoint_sha256 for found in releases(repository, "small")] == [digest]
    assert notes["training"] == {"command": "a test"}
    assert notes["parity_tiles"] == "8 of tiles"
    assert notes["versions"]["torch"] == torch.__version__
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.pt"], "nowhere.pt: expected a checkpoint, found no file: train one with `histoserve train`"),
        (["nowhere.pt", "--name", "demo_r1"], "model name 'demo_r1': expected lower-case letters"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main([*arguments, "--repository", str(tmp_path / "repository")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"histoserve export: {message}")
    assert error.count("\n") == 1
    assert not (tmp_path / "repository").exists()


def test_missing_tiles_are_one_line(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(checkpoint), "--repository", str(tmp_path), "--tiles", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err == f"histoserve export: {tmp_path / 'nowhere'}: expected a folder of tile images, found none\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["checkpoint.pt", "--no-such-option"], "no-such-option"),
        (["checkpoint.pt", "--engines", "engines"], "expected --target gpu beside it, got none"),
        (["checkpoint.pt", "--truth", "masks"], "expected --tiles, whose masks they are"),
    ],
)
def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is here: the refusal cannot be seen")
def test_engines_without_tensorrt_are_refused_and_nothing_is_published(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiles = tmp_path / "tiles"
    tiles.mkdir()
    for index, tile in enumerate(tissue_like(8)):
        Image.fromarray(tile).save(tiles / f"{index}.png")
    where = ["--repository", str(tmp_path / "repository"), "--tiles", str(tiles)]
    assert main([str(checkpoint), *where, "--target", "gpu", "--engines", str(tmp_path / "engines")]) == 1
    error = capsys.readouterr().err
    assert "expected the package tensorrt" in error
    assert "trtexec --onnx=model.onnx" in error
    assert not (tmp_path / "repository").exists()
