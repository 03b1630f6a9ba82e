"""`histoserve export --list`, `--remove`, `--rollback`, and the card that they read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from export.card import CARD_FILE, Metrics, read_metrics
from export.cli import main
from export.errors import PublishError
from export.graphs import KindGraphs
from export.layout import KINDS
from export.listing import find_releases, list_releases, parse_release
from export.repository import current_release, publish, roll_back
from serving.check import check_repository, entry_names
from tests.export.networks import DEMO, draft

pytestmark = pytest.mark.slow

Graphs = tuple[KindGraphs, ...]


@pytest.fixture
def repository(tmp_path: Path, graphs: Graphs) -> Path:
    """Two releases of demo; callers get the second."""
    for _ in range(2):
        publish(tmp_path / "repository", "demo", draft(graphs))
    return tmp_path / "repository"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def listed(capsys: pytest.CaptureFixture[str], repository: Path) -> tuple[int, list[dict[str, Any]]]:
    code, out, _ = run(capsys, "--list", "--repository", repository, "--json")
    return code, json.loads(out)


def test_lists_what_callers_get(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, entries = listed(capsys, repository)
    assert code == 0
    assert [(entry["release"], entry["state"], entry["current"]) for entry in entries] == [
        ("demo_r1", "whole", []),
        ("demo_r2", "whole", ["demo_segment", "demo_cam"]),
    ]
    assert entries[0]["precision"] == {"segment": "fp32", "cam": "fp32"}
    code, out, _ = run(capsys, "--repository", repository, "--list")  # the action may stand anywhere
    assert code == 0
    assert "demo_r2" in out


@pytest.mark.parametrize("file", ["demo_r1_segment_net/1/model.onnx", "demo_r1_background/1/model.py", "demo_r1_cam/canary.npz"])
def test_says_which_file_has_changed(repository: Path, capsys: pytest.CaptureFixture[str], file: str) -> None:
    with open(repository / file, "ab") as damaged:
        damaged.write(b" ")
    code, entries = listed(capsys, repository)
    assert code == 1
    assert [entry["state"] for entry in entries] == ["damaged", "whole"]
    assert entries[0]["faults"] == [f"{file} has changed"]
    code, _, error = run(capsys, "--rollback", "demo_r1", "--repository", repository)
    assert code == 1
    assert error.startswith(f"histoserve export: release 'demo_r1': expected the files it was published with: {file} has changed")
    assert current_release(repository, "demo", "cam") == "demo_r2_cam"


def test_says_which_file_is_missing(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "demo_r1_segment" / "parity.json").unlink()
    assert listed(capsys, repository)[1][0]["faults"] == ["demo_r1_segment/parity.json is missing"]


@pytest.mark.parametrize("content", ["[]", "{", '{"files": 3}'])
def test_a_damaged_card_is_damage(repository: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (repository / "demo_r1_segment" / CARD_FILE).write_text(content)
    code, entries = listed(capsys, repository)
    assert (code, entries[0]["state"]) == (1, "damaged")
    assert "expected the card of a release" in entries[0]["faults"][0]


def test_a_release_from_before_there_were_cards_is_known_by_its_graphs(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in KINDS:
        (repository / f"demo_r1_{kind}" / CARD_FILE).unlink()
    assert listed(capsys, repository)[1][0]["state"] == "whole"
    (repository / "demo_r1_cam_net/1/model.onnx").write_bytes(b"")
    assert listed(capsys, repository)[1][0]["faults"] == ["demo_r1_cam_net/1/model.onnx has changed"]


def test_rolls_back_and_removes(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(capsys, "--remove", "demo_r2", "--repository", repository)
    assert code == 1
    assert error == (
        "histoserve export: release 'demo_r2': expected one that nothing points to, but 'demo_cam' does: "
        "roll back to another release first (histoserve export --rollback), or publish one\n"
    )
    code, out, _ = run(capsys, "--rollback", "r1", "--name", "demo", "--repository", repository)
    assert code == 0
    assert out.splitlines() == ["demo_segment now answers as demo_r1_segment", "demo_cam now answers as demo_r1_cam"]
    code, out, _ = run(capsys, "--remove", "demo_r2", "--repository", repository)
    assert (code, out) == (0, "removed demo_r2: 11 models\n")
    assert not list(repository.glob("demo_r2_*"))
    check_repository(repository, entry_names(repository))
    code, _, error = run(capsys, "--remove", "demo_r2", "--repository", repository)
    assert code == 1
    assert "expected a release r2 of 'demo' to remove, found r1" in error


def test_the_number_of_a_removed_release_is_not_given_again(repository: Path, graphs: Graphs) -> None:
    """Masks on disk name the release that made them."""
    roll_back(repository, "demo", 1)
    assert main(["--remove", "demo_r2", "--repository", str(repository)]) == 0
    assert publish(repository, "demo", draft(graphs)).number == 3
    assert publish(repository, "demo_r", draft(graphs[1:])).number == 1  # of another model


def test_a_release_that_another_ensemble_needs_is_kept(repository: Path, graphs: Graphs, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two kinds one may be older: a release without segmenter leaves that entry."""
    publish(repository, "demo", draft(graphs[1:]))
    assert current_release(repository, "demo", "segment") == "demo_r2_segment"
    code, _, error = run(capsys, "--remove", "demo_r2", "--repository", repository)
    assert code == 1
    assert "'demo_segment' does" in error


@pytest.mark.parametrize("raw", ["demo", "r", "demo_rx", "2", "demo_r2 "])
def test_what_is_no_release_is_refused(raw: str) -> None:
    with pytest.raises(PublishError, match="expected one such as demo_r2, or r2 together with --name demo"):
        parse_release(raw, None)


def test_releases_as_they_are_typed() -> None:
    assert parse_release("demo_r12", None) == ("demo", 12)
    assert parse_release("r3", "a_b") == ("a_b", 3)
    with pytest.raises(PublishError):
        parse_release("r3", None)
    with pytest.raises(PublishError):
        parse_release("demo_r3", "demo")


def test_finds_what_callers_name(repository: Path) -> None:
    def found(model: str) -> list[str]:
        return [release.frozen(kind) for release, kind in find_releases(repository, model)]

    assert found("demo") == ["demo_r2_segment", "demo_r2_cam"]
    assert found("demo_cam") == ["demo_r2_cam"]
    assert found("demo_r1") == ["demo_r1_segment", "demo_r1_cam"]
    with pytest.raises(PublishError, match="named 'other'; it has the models demo"):
        found("other")


@pytest.mark.parametrize("arguments", [["--list"], ["--remove", "demo_r1"], ["--rollback", "demo_r1"], ["--check", "demo"]])
def test_no_repository_is_one_line_and_none_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, _, error = run(capsys, *arguments, "--repository", tmp_path / "nowhere")
    assert code == 1
    assert "expected a model repository, found no such folder" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "nowhere").exists()


def test_two_actions_at_once_are_wrong_usage() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--list", "--remove", "demo_r1"])
    assert caught.value.code == 2


def test_the_card_names_every_file(repository: Path) -> None:
    card = json.loads((repository / "demo_r1_segment" / CARD_FILE).read_text())
    there = {
        path.relative_to(repository).as_posix() for path in repository.glob("demo_r1_*/**/*") if path.is_file() and path.name != CARD_FILE
    }
    assert set(card["files"]) == there
    for name, digest in card["files"].items():
        assert hashlib.sha256((repository / name).read_bytes()).hexdigest() == digest


def test_the_card_says_what_the_model_is(tmp_path: Path, graphs: Graphs) -> None:
    recipe = {"data": "patches", "data_format": "folder", "task": "demo"}
    notes = {"training": {"recipe": recipe, "patches": 800}, "versions": {"torch": "2"}, "checkpoint": {"file": "c.pt", "sha256": "0"}}
    full = dataclasses.replace(draft(graphs), provenance=notes, metrics=Metrics("scores.json", {"miou": 0.5}))
    publish(tmp_path, "demo", full)
    cards = {kind: json.loads((tmp_path / f"demo_r1_{kind}" / CARD_FILE).read_text()) for kind in KINDS}
    card = cards["segment"]
    assert (card["release"], card["kind"], card["precision"]) == ("demo_r1_segment", "segment", "fp32")
    assert card["classes"] == list(DEMO.class_names)
    assert card["recipe"] == recipe
    assert card["data"] == {"data": "patches", "data_format": "folder", "patches": 800}
    assert (card["versions"], card["checkpoint"]) == (notes["versions"], notes["checkpoint"])
    assert card["metrics"] == {"file": "scores.json", "miou": 0.5}
    assert cards["cam"]["metrics"] is None  # they are the segmenter's
    assert {report["engine"] for report in card["parity"]} == {"onnxruntime", "openvino", "tensorrt"}
    assert card["parity"][0]["figures"][0]["name"] == "logits_max_abs"


def test_metrics_of_other_classes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"classes": ["a", "b"], "miou": 0.5, "images": {"patient 7": []}}))
    assert read_metrics(path, ["a", "b"]).values == {"classes": ["a", "b"], "miou": 0.5}  # no name of a slide
    with pytest.raises(PublishError, match=r"expected figures of the classes \['b', 'a'\], got \['a', 'b'\]"):
        read_metrics(path, ["b", "a"])
    path.write_text("no JSON")
    with pytest.raises(PublishError, match="cannot read it"):
        read_metrics(path, ["a"])


def test_a_killed_export_is_listed_and_can_be_removed(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in KINDS:  # the frozen ensembles come last
        for file in sorted((repository / f"demo_r1_{kind}").rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        (repository / f"demo_r1_{kind}").rmdir()
    code, entries = listed(capsys, repository)
    assert (code, entries[0]["state"]) == (0, "incomplete")
    assert main(["--remove", "demo_r1", "--repository", str(repository)]) == 0
    assert [entry.prefix for entry in list_releases(repository)] == ["demo_r2"]
