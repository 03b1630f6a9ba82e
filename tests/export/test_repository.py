"""Publishing: what is written, in which order it counts, and what is left when something breaks in between."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from export import reference, release
from export.card import CARD_FILE, damaged_files
from export.errors import ParityError, PublishError
from export.figures import ParityReport
from export.graphs import KindGraphs
from export.layout import KINDS, kind_layout, parse_model_name
from export.parity import figure_of
from export.removal import remove
from export.repository import current_release, digests_of, get_release, publish, releases, roll_back
from export.targets import GpuTarget
from serving.background import background_mask
from serving.canary import TOLERANCE
from serving.check import check_repository, entry_names, model_names
from serving.contract import BACKGROUND, CAM, IMAGE, LABELS, PROBABILITIES, SCORES, TILE, Kind
from serving.errors import RepositoryError
from serving.modelconfig import EnsembleConfig, ModelConfig, Step, contract_of, read_config
from tests.export.networks import CAM_CELL_PX, DEMO, SEGMENT_CELL_PX, SmallClassifier, SmallSegmenter, both_kinds, draft

pytestmark = pytest.mark.slow

FIRST = [
    *("demo_r1_background", "demo_r1_cam", "demo_r1_cam_labels", "demo_r1_cam_net", "demo_r1_cam_slide"),
    *("demo_r1_decode", "demo_r1_segment", "demo_r1_segment_image"),
    *("demo_r1_segment_labels", "demo_r1_segment_net", "demo_r1_segment_slide"),
]


class Crashed(Exception):
    """Stands for whatever stops an export."""


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_release_is_the_models_of_the_design(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    published = publish(tmp_path, "demo", draft(graphs))
    assert (published.number, published.kinds) == (1, ("segment", "cam"))
    assert model_names(tmp_path) == sorted([*FIRST, "demo_cam", "demo_segment", "demo_segment_image"])
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == model_names(tmp_path)  # no staging folder left
    assert (tmp_path / "demo_r1_background/1/model.py").read_text().startswith('"""The served background step')
    for name in model_names(tmp_path):
        config = read_config(tmp_path / name)
        assert config.max_batch_size == 64
        if isinstance(config, EnsembleConfig):
            assert (tmp_path / name / "1" / ".gitkeep").is_file()
        else:
            assert config.queue_delay_us == (500 if name.endswith("_net") else 0)
            assert config.max_queue_size == (None if name.endswith("_labels") else 128)
            assert config.parameters.get("histoserve_engine") == ("onnxruntime" if name.endswith("_labels") else None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_ensemble_carries_the_contract(tmp_path: Path, graphs: tuple[KindGraphs, ...], kind: Kind) -> None:
    publish(tmp_path, "demo", draft(graphs))
    for name in (f"demo_{kind}", f"demo_r1_{kind}", f"demo_r1_{kind}_slide"):
        contract = contract_of(read_config(tmp_path / name))
        assert (contract.task, contract.kind, contract.method) == (DEMO, kind, "pscl")
        assert contract.cell_px == (SEGMENT_CELL_PX if kind == "segment" else CAM_CELL_PX)
        assert (contract.release, contract.slide_model) == (f"demo_r1_{kind}", f"demo_r1_{kind}_slide")
    outputs = {tensor.name for tensor in read_config(tmp_path / f"demo_{kind}").outputs}
    assert outputs == ({LABELS, PROBABILITIES} if kind == "segment" else {LABELS, CAM, SCORES})


@pytest.mark.parametrize("kind", KINDS)
def test_the_slide_model_has_the_network_compute_nothing_that_slides_do_not_ask_for(
    tmp_path: Path, graphs: tuple[KindGraphs, ...], kind: Kind
) -> None:
    """Triton has a step compute its whole output map, whatever the request names."""
    publish(tmp_path, "demo", draft(graphs))
    slide = read_config(tmp_path / f"demo_r1_{kind}_slide")
    assert isinstance(slide, EnsembleConfig)
    wanted = {PROBABILITIES} if kind == "segment" else {CAM, SCORES}
    assert {tensor.name for tensor in slide.outputs} == wanted == set(slide.steps[0].outputs)


def test_the_servers_own_check_accepts_a_release(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    publish(tmp_path, "demo", draft(graphs))
    assert set(check_repository(tmp_path, entry_names(tmp_path))) == {*FIRST, "demo_segment", "demo_cam", "demo_segment_image"}


def test_the_background_step_gets_the_rule(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    publish(tmp_path, "demo", draft(graphs))
    config = read_config(tmp_path / "demo_r1_background")
    assert isinstance(config, ModelConfig)
    assert config.parameters == {"gray_above": "200", "min_size_px": "600"}
    assert config.cpu_only
    assert (tmp_path / "demo_r1_background/1/serving/background.py").is_file()


def test_publishing_again_moves_the_entries_and_leaves_the_first_release_alone(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    publish(tmp_path, "demo", draft(graphs))
    before = {name: content for name, content in snapshot(tmp_path).items() if name.startswith("demo_r1_")}
    second = publish(tmp_path, "demo", draft(graphs))
    assert second.number == 2
    assert {name: content for name, content in snapshot(tmp_path).items() if name.startswith("demo_r1_")} == before
    assert [found.number for found in releases(tmp_path, "demo")] == [1, 2]
    for kind in KINDS:
        assert current_release(tmp_path, "demo", kind) == f"demo_r2_{kind}"
        steps = read_config(tmp_path / f"demo_{kind}")
        assert isinstance(steps, EnsembleConfig)
        assert all(step.model.startswith("demo_r2_") for step in steps.steps)


def test_rolling_back_points_the_entries_to_the_older_release(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    publish(tmp_path, "demo", draft(graphs))
    first = snapshot(tmp_path / "demo_segment")
    publish(tmp_path, "demo", draft(graphs))
    roll_back(tmp_path, "demo", 1)
    assert snapshot(tmp_path / "demo_segment") == first
    assert current_release(tmp_path, "demo", "cam") == "demo_r1_cam"
    with pytest.raises(PublishError, match="expected a whole release r3 of 'demo', found r1, r2"):
        roll_back(tmp_path, "demo", 3)


@pytest.mark.parametrize("model", ["demo_r2_background", "demo_r2_segment_slide", "demo_r2_cam"])
def test_a_crash_while_models_move_leaves_everything_as_it_was(
    tmp_path: Path, graphs: tuple[KindGraphs, ...], monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    publish(tmp_path, "demo", draft(graphs))
    before = snapshot(tmp_path)
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if target.name == model:
            raise Crashed
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(Crashed):
        publish(tmp_path, "demo", draft(graphs))
    assert snapshot(tmp_path) == before
    assert [found.number for found in releases(tmp_path, "demo")] == [1]


def test_a_crash_before_the_commit_point_leaves_the_old_entries(
    tmp_path: Path, graphs: tuple[KindGraphs, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, "demo", draft(graphs))
    before = {name: content for name, content in snapshot(tmp_path).items() if not name.startswith("demo_r2_")}

    def failing(source: Path, target: Path) -> None:
        raise Crashed

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(Crashed):
        publish(tmp_path, "demo", draft(graphs))
    assert {name: content for name, content in snapshot(tmp_path).items() if not name.startswith("demo_r2_")} == before
    check_repository(tmp_path, ["demo_segment", "demo_cam"])
    monkeypatch.undo()
    assert roll_back(tmp_path, "demo", 2).number == 2  # the release itself was whole
    assert publish(tmp_path, "demo", draft(graphs)).number == 3


def test_a_killed_export_leaves_no_release_and_does_not_block_the_next(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    publish(tmp_path, "demo", draft(graphs))
    publish(tmp_path, "demo", draft(graphs))
    roll_back(tmp_path, "demo", 1)
    (tmp_path / "demo_r2_segment_net" / "config.pbtxt").unlink()  # as after kill -9 between two renames
    (tmp_path / ".staging" / "demo_r3_background").mkdir(parents=True)
    assert [found.number for found in releases(tmp_path, "demo")] == [1]
    assert publish(tmp_path, "demo", draft(graphs)).number == 3
    assert not (tmp_path / ".staging").exists()


def test_damaged_notes_are_one_clear_error(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    publish(tmp_path, "demo", draft(graphs))
    (tmp_path / "demo_r1_segment" / "release.json").write_text("[]")
    with pytest.raises(PublishError, match=r"release\.json: expected the notes of a release"):
        releases(tmp_path, "demo")


def test_a_failed_parity_is_not_published(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    failed = ParityReport("segment_net", 8, (figure_of("label_agreement", 0.99),))
    with pytest.raises(ParityError, match=r"label_agreement = 0\.99"):
        publish(tmp_path / "repository", "demo", draft((dataclasses.replace(graphs[0], reports=(failed,)), graphs[1])))
    assert not (tmp_path / "repository").exists()


def test_two_exports_do_not_write_at_once(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    with open(tmp_path / ".publish.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PublishError, match="another export is publishing"):
            publish(tmp_path, "demo", draft(graphs))
    assert publish(tmp_path, "demo", draft(graphs)).number == 1


def test_a_repository_that_cannot_be_written_is_one_clear_error(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PublishError, match=r"expected a folder that releases can be written to.*--repository"):
        publish(tmp_path / "file", "demo", draft(graphs))


@pytest.mark.parametrize("name", ["Demo", "demo_r1", "r2", "demo r", "", "demo__x", "../demo"])
def test_names_that_clash_with_releases_are_refused(name: str) -> None:
    with pytest.raises(PublishError, match="expected lower-case letters"):
        parse_model_name(name)


def test_releases_of_one_name_are_not_those_of_another(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    publish(tmp_path, "demo", draft(graphs))
    publish(tmp_path, "demo_large", draft(graphs))
    assert [found.number for found in releases(tmp_path, "demo")] == [1]
    assert get_release(tmp_path, "demo_large", 1).frozen("cam") == "demo_large_r1_cam"
    assert releases(tmp_path / "nowhere", "demo") == []


def test_the_canary_holds_what_the_networks_and_the_rule_say(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    publish(tmp_path, "demo", draft(graphs))
    rule = DEMO.background
    assert rule is not None
    with np.load(tmp_path / "demo_r1_segment/canary.npz") as segment, np.load(tmp_path / "demo_r1_cam/canary.npz") as cam:
        tiles = segment[TILE]
        background = np.stack([background_mask(tile, rule.gray_above, rule.min_size_px) for tile in tiles]).astype(np.uint8)
        assert tiles.shape == (2, 224, 224, 3)
        assert background[1, :100, :100].all()  # the background step has something to find
        (logits,) = reference.run_network(SmallSegmenter().eval(), tiles, DEMO.normalization)
        expected = reference.segment_labels(reference.segment_outputs(logits, SEGMENT_CELL_PX), background, SEGMENT_CELL_PX)
        assert set(segment) == {TILE, LABELS, PROBABILITIES, TOLERANCE}
        assert segment[TOLERANCE].tolist() == [0.999, 1, 0.001]
        assert np.abs(segment[PROBABILITIES].astype(int) - expected[PROBABILITIES]).max() <= 1
        assert (segment[LABELS] == expected[LABELS]).mean() > 0.999
        class_maps, logits = reference.run_network(SmallClassifier().eval(), tiles, DEMO.normalization)
        raw = reference.cam_outputs(class_maps, logits, CAM_CELL_PX)
        assert set(cam) == {TILE, LABELS, CAM, SCORES, TOLERANCE}
        assert (cam[LABELS] == raw[LABELS] * (1 - background)).mean() > 0.999
        np.testing.assert_allclose(cam[CAM], raw[CAM], atol=1e-4)


def test_notes_say_where_a_release_comes_from(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    publish(tmp_path, "demo", draft(graphs))
    notes = json.loads((tmp_path / "demo_r1_cam" / release.RELEASE_FILE).read_text())
    assert (notes["release"], sorted(notes["models"]), notes["made_by"]) == ("demo_r1", FIRST, "a test")
    assert set(notes["sha256"]) == {name for name in FIRST if name.endswith(("_net", "_labels"))}
    figures = json.loads((tmp_path / "demo_r1_segment" / release.PARITY_FILE).read_text())["reports"]
    assert [report["graph"] for report in figures] == ["segment_net"] * 3 + ["segment_labels"] * 2  # TensorRT does not combine


def test_the_image_entry_is_the_segmenter_behind_a_decode_step(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    publish(tmp_path, "demo", draft(graphs))
    entry, frozen, segmenter = (read_config(tmp_path / name) for name in ("demo_segment_image", "demo_r1_segment_image", "demo_segment"))
    assert isinstance(entry, EnsembleConfig)
    assert isinstance(segmenter, EnsembleConfig)
    assert entry == dataclasses.replace(frozen, name="demo_segment_image")
    assert contract_of(entry) == dataclasses.replace(contract_of(segmenter), takes="image")
    assert entry.outputs == segmenter.outputs
    assert entry.steps == (Step("demo_r1_decode", {IMAGE: IMAGE}, {TILE: TILE}), *segmenter.steps)
    step = tmp_path / "demo_r1_decode" / "1"
    assert read_config(step.parent).parameters == {"tile_px": "224"}
    assert (step / "model.py").read_text().startswith('"""The served decode step')
    assert (step / "serving" / "image_file.py").is_file()
    assert "demo_r1_decode" in needed_by(tmp_path, "demo_segment_image")
    assert "demo_r1_decode" not in needed_by(tmp_path, "demo_segment")


def needed_by(repository: Path, entry: str) -> set[str]:
    return set(check_repository(repository, [entry]))


def test_the_image_entry_moves_with_its_segmenter(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    for _ in range(2):
        publish(tmp_path, "demo", draft(graphs))
    assert contract_of(read_config(tmp_path / "demo_segment_image")).release == "demo_r2_segment"
    roll_back(tmp_path, "demo", 1)
    assert contract_of(read_config(tmp_path / "demo_segment_image")).release == "demo_r1_segment"
    remove(tmp_path, "demo", 2)
    assert set(check_repository(tmp_path, entry_names(tmp_path))) == {*FIRST, "demo_segment", "demo_cam", "demo_segment_image"}


def test_rolling_back_to_a_release_without_one_takes_the_image_entry_away(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    """Releases from before there were image entries; what stayed would answer from another release than the segmenter."""
    publish(tmp_path, "demo", draft(graphs))
    for name in ("demo_segment_image", "demo_r1_segment_image", "demo_r1_decode"):
        shutil.rmtree(tmp_path / name)
    make_older(tmp_path)
    assert entry_names(tmp_path) == ("demo_cam", "demo_segment")
    publish(tmp_path, "demo", draft(graphs))
    assert entry_names(tmp_path) == ("demo_cam", "demo_segment", "demo_segment_image")
    roll_back(tmp_path, "demo", 1)
    assert entry_names(tmp_path) == ("demo_cam", "demo_segment")
    assert [model for model in remove(tmp_path, "demo", 2) if model.endswith("_image")] == ["demo_r2_segment_image"]


def make_older(repository: Path) -> None:
    """As an older histoserve wrote the notes, and no card."""
    for kind in KINDS:
        notes = repository / f"demo_r1_{kind}" / release.RELEASE_FILE
        content = json.loads(notes.read_text())
        content["models"] = [name for name in content["models"] if not name.endswith(("_image", "_decode"))]
        notes.write_text(json.dumps(content))
        (notes.parent / CARD_FILE).unlink()


def test_a_task_without_background_rule_has_no_background_step(tmp_path: Path) -> None:
    task = dataclasses.replace(DEMO, background=None)
    publish(tmp_path, "glands", draft(both_kinds(task), task))
    assert not [name for name in model_names(tmp_path) if name.endswith(("_background", "_labels"))]
    image = read_config(tmp_path / "glands_segment_image")
    assert isinstance(image, EnsembleConfig)
    assert [step.model for step in image.steps] == ["glands_r1_decode", "glands_r1_segment_net"]
    check_repository(tmp_path, ["glands_segment", "glands_cam"])
    with np.load(tmp_path / "glands_r1_cam/canary.npz") as canary:
        assert canary[LABELS].min() >= 1


def test_a_release_without_segmenter_leaves_the_segment_entry(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    publish(tmp_path, "demo", draft(graphs))
    assert publish(tmp_path, "demo", draft(graphs[1:])).kinds == ("cam",)
    assert current_release(tmp_path, "demo", "segment") == "demo_r1_segment"
    assert contract_of(read_config(tmp_path / "demo_segment_image")).release == "demo_r1_segment"
    assert current_release(tmp_path, "demo", "cam") == "demo_r2_cam"
    assert current_release(tmp_path, "other", "cam") is None


def test_every_output_of_an_ensemble_comes_from_its_last_step() -> None:
    frozen = kind_layout("demo_r1", "cam", DEMO, "pscl", CAM_CELL_PX).frozen
    *earlier, last = frozen.steps
    assert set(last.outputs.values()) == {tensor.name for tensor in frozen.outputs}
    assert not {name for step in earlier for name in step.outputs.values()} & set(last.outputs.values())
    assert BACKGROUND in last.inputs.values()


def test_an_engine_is_published_beside_its_graph(tmp_path: Path, graphs: tuple[KindGraphs, ...]) -> None:
    plan = tmp_path / "0123-trt11.4-nvidia-l4-b1-64-64.plan"
    plan.write_bytes(b"an engine")
    repository = tmp_path / "repository"
    built = dataclasses.replace(draft(graphs), target=GpuTarget(has_engine=True), plans={"segment": plan, "cam": plan})
    publish(repository, "demo", built)
    net = repository / "demo_r1_segment_net"
    assert (net / "1" / "model.plan").read_bytes() == b"an engine"
    assert (net / "1" / "model.onnx").is_file()  # what `--check` reads
    config = read_config(net)
    assert isinstance(config, ModelConfig)
    assert (config.backend, config.file_name) == ("tensorrt", "model.plan")
    notes = json.loads((repository / "demo_r1_segment" / "release.json").read_text())
    assert notes["engines"] == {"demo_r1_segment_net": plan.name, "demo_r1_cam_net": plan.name}
    check_repository(repository, ["demo_segment", "demo_cam"])
    (net / "1" / "model.plan").write_bytes(b"another")
    assert damaged_files(repository, digests_of(repository, get_release(repository, "demo", 1))) == [
        "demo_r1_segment_net/1/model.plan has changed"
    ]
    (net / "1" / "model.plan").unlink()
    with pytest.raises(RepositoryError, match=r"'demo_r1_segment_net': expected the file .*model\.plan, found none"):
        check_repository(repository, ["demo_segment"])
