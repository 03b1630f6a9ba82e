"""`histoserve export --check` on published releases, right and wrong, and the report that a failed gate leaves."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from export import graphs as graphs_module
from export.cli import main
from export.figures import Worst
from export.graphs import KindGraphs
from export.parity_report import draw_worst
from export.repository import publish
from export.signature import Signature
from export.to_onnx import to_onnx
from tests.export.networks import DEMO, draft, tissue_like
from training.checkpoint import Checkpoint, save
from training.classifier import Classifier, ClassifierConfig
from training.segmenter import Segmenter, SegmenterConfig

pytestmark = pytest.mark.slow

TASK = dataclasses.replace(DEMO, tile_px=64)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    for index, tile in enumerate(tissue_like(8)):
        Image.fromarray(tile).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig("test_resnet", (2,), 4, image_px=64)).eval()
    segmenter = Segmenter(SegmenterConfig("test_resnet", (1, 2), 4, 8, image_px=64)).eval()
    with torch.no_grad():  # decided enough that labels are not all of one class
        segmenter.head.weight.div_(segmenter(torch.randn(4, 3, 64, 64)).std() / 2)
    path = tmp_path_factory.mktemp("trained") / "checkpoint.pt"
    save(path, Checkpoint(TASK, "pscl", classifier, segmenter, {}))
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, tiles: Path) -> Path:
    repository = tmp_path_factory.mktemp("published") / "repository"
    assert main([str(checkpoint), "--repository", str(repository), "--name", "small", "--tiles", str(tiles)]) == 0
    return repository


def damage_graph(repository: Path, model: str, prefix: str) -> None:
    """A wrong graph that looks untouched: the notes and the card get its digest."""
    path = repository / model / "1" / "model.onnx"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    graph = onnx.load(path)
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name.startswith(prefix))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:, ::-1].copy(), tensor.name))
    onnx.save(graph, path)
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    notes = [*repository.glob("*/release.json"), *repository.glob("*/card.json")]
    for file in notes:
        text = file.read_text().replace(before, after)
        file.write_text(text)
    for release in repository.glob("*/release.json"):
        card = release.with_name("card.json")
        content = json.loads(card.read_text())
        for other in repository.glob("*/release.json"):
            content["files"][f"{other.parent.name}/release.json"] = hashlib.sha256(other.read_bytes()).hexdigest()
        card.write_text(json.dumps(content))


def test_a_right_release_passes(published: Path, checkpoint: Path, tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in published.rglob("*")}
    arguments = ["--check", "small", "--repository", str(published), "--tiles", str(tiles), "--report", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "small_r1_segment keeps parity with onnxruntime" in printed
    assert "small_r1_cam keeps parity with onnxruntime" in printed
    assert "canary_agreement" in printed
    assert "tensorrt not run: tensorrt is not installed" in printed
    assert main([*arguments, "--checkpoint", str(checkpoint)]) == 0
    assert "small_r1_segment keeps parity with torch" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in published.rglob("*")} == before  # a check changes nothing
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_graph_is_caught_and_shown(
    graphs: tuple[KindGraphs, ...], tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """BGR for RGB: every engine agrees with every other, and the canary tells."""
    repository = tmp_path / "repository"
    publish(repository, "demo", draft(graphs))
    damage_graph(repository, "demo_r1_segment_net", "network.body.0.weight")
    assert main(["--check", "demo_segment", "--repository", str(repository), "--tiles", str(tiles), "--report", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "segment canary: " in error
    assert "canary_agreement = " in error
    assert "segment_net" not in error
    folder = tmp_path / "parity-failed-demo_r1_segment"
    assert str(folder / "report.html") in error
    report = json.loads((folder / "report.json").read_text())
    (canary,) = [entry for entry in report["reports"] if (entry["graph"], entry["engine"]) == ("segment canary", "onnxruntime")]
    assert [figure["is_within"] for figure in canary["figures"]] == [False, False]
    page = (folder / "report.html").read_text()
    assert "worst-segment-canary-onnxruntime.png" in page
    assert "tensorrt is not installed" in page
    with Image.open(folder / "worst-segment-canary-onnxruntime.png") as picture:
        assert picture.size == (4 * 224 + 3 * 8, 224)


def test_another_checkpoint_is_refused(published: Path, tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.pt"
    save(other, Checkpoint(TASK, "pscl", Classifier(ClassifierConfig("test_resnet", (2,), 4, image_px=64)).eval(), None, {}))
    arguments = ["--check", "small_cam", "--repository", str(published), "--tiles", str(tiles), "--checkpoint", str(other)]
    assert main(arguments) == 1
    assert "expected the checkpoint that 'small_r1' was exported from" in capsys.readouterr().err


def test_a_changed_file_is_refused_before_anything_runs(published: Path, tiles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = published / "small_r1_cam" / "canary.npz"
    content = path.read_bytes()
    try:
        path.write_bytes(content + b" ")
        assert main(["--check", "small_r1", "--repository", str(published), "--tiles", str(tiles)]) == 1
        assert "small_r1_cam/canary.npz has changed" in capsys.readouterr().err
    finally:
        path.write_bytes(content)


def test_a_failed_export_leaves_a_report_and_no_release(
    checkpoint: Path, tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The graph is made of other weights than the network that it is held against."""

    def perturbed(module: torch.nn.Module, signature: Signature) -> onnx.ModelProto:
        model = to_onnx(module, signature)
        for tensor in model.graph.initializer:
            if tensor.name == "network.head.weight":
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.5), tensor.name))
        return model

    monkeypatch.setattr(graphs_module, "to_onnx", perturbed)
    repository = tmp_path / "repository"
    arguments = [str(checkpoint), "--repository", str(repository), "--name", "small", "--tiles", str(tiles), "--report", str(tmp_path)]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "segment_net: the exported graph does not keep parity with torch on 8 tiles in onnxruntime: logits_max_abs = " in error
    assert "does not keep parity with torch on 8 tiles in openvino: logits_max_abs = " in error
    assert "Nothing was published" in error
    assert error.count("\n") == 1
    assert not repository.exists()
    names = {path.name for path in (tmp_path / "parity-failed-small").iterdir()}
    assert {"report.html", "report.json", "worst-segment_net-onnxruntime.png", "worst-segment_net-openvino.png"} <= names
    assert "worst-segment_net-tensorrt.png" not in names


def test_the_picture_shows_where_labels_differ() -> None:
    tile = np.full((8, 8, 3), 120, np.uint8)
    expected = np.ones((8, 8), np.uint8)
    got = expected.copy()
    got[2, 3] = 2
    got[5, 5] = 200  # no class of the task: a wrong graph may say anything
    picture = draw_worst(Worst(tile, expected, got, "tile 0"), DEMO)
    tiles, _, labels, _, answer, _, differences = np.split(picture, [8, 16, 24, 32, 40, 48], axis=1)
    np.testing.assert_array_equal(tiles, tile)
    assert (labels == DEMO.classes[0].color).all()
    assert tuple(answer[2, 3]) == DEMO.classes[1].color
    assert tuple(answer[5, 5]) == (0, 0, 0)
    is_red = (differences == (220, 0, 0)).all(axis=2)
    assert sorted(zip(*np.nonzero(is_red), strict=True)) == [(2, 3), (5, 5)]


def test_a_release_in_half_precision(checkpoint: Path, tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = tmp_path / "repository"
    arguments = ["--repository", str(repository), "--name", "half", "--tiles", str(tiles)]
    metrics = tmp_path / "scores.json"
    metrics.write_text(json.dumps({"classes": TASK.class_names, "miou": 0.7}))
    assert main([str(checkpoint), *arguments, "--precision", "fp16", "--target", "cpu", "--metrics", str(metrics)]) == 0
    assert "in fp16 beside fp32, 8 tiles" in capsys.readouterr().out
    weights = onnx.load(repository / "half_r1_segment_net" / "1" / "model.onnx").graph.initializer
    assert onnx.TensorProto.FLOAT16 in {tensor.data_type for tensor in weights}
    card = json.loads((repository / "half_r1_segment" / "card.json").read_text())
    assert card["precision"] == "fp16"
    assert (card["metrics"]["file"], card["metrics"]["miou"]) == ("scores.json", 0.7)
    assert card["precision_cost"]["bytes_candidate"] < card["precision_cost"]["bytes_fp32"]
    limits = {figure["name"]: figure["limit"] for figure in card["parity"][0]["figures"]}
    assert (limits["label_agreement"], limits["label_rule_agreement"]) == (">= 0.995", ">= 1")
    assert "KIND_CPU" in (repository / "half_r1_segment_net" / "config.pbtxt").read_text()
    assert main(["--check", "half_segment", *arguments[:2], *arguments[4:], "--checkpoint", str(checkpoint)]) == 0


def test_int8_needs_tiles_to_calibrate_on(checkpoint: Path, tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(checkpoint), "--repository", str(tmp_path / "repository"), "--tiles", str(tiles), "--precision", "int8"]
    assert main(arguments) == 1
    assert "expected tiles to calibrate on, got none: give a folder of real tiles with --calibration" in capsys.readouterr().err
    assert main([*arguments, "--calibration", str(tiles), "--max-miou-loss", "-100"]) == 1
    assert "int8 is refused" in capsys.readouterr().err
    assert not (tmp_path / "repository").exists()
