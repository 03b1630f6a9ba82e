"""The model that ships with the repository: it starts, its record holds, and it labels lung tissue with no training first."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from benchmarks.soak_load import callers_of, entries_of
from clients.served_model import ServedModel
from export.card import damaged_files
from export.repository import digests_of, releases
from export.tensorrt_rules import check_tensorrt
from serving.embedded import EmbeddedTriton
from serving.tasks import get_task
from tests.serving.processes import wait_until

from .conftest import ROOT, SLIDES, histoserve, needs_slides

pytestmark = pytest.mark.triton
REPOSITORY = ROOT / "model_repository"
CROPS = SLIDES.parent / "wsss4luad"


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedTriton]:
    """Its start runs the canary of both frozen ensembles: the values are those of the export."""
    with EmbeddedTriton(REPOSITORY, entries_of("default")) as started:
        yield started


def test_each_way_in_gives_the_same_answer_again_beside_the_others(server: EmbeddedTriton) -> None:
    stop = threading.Event()
    callers = callers_of(server.address, "default", (1, 3), 0, stop)
    for caller in callers:
        caller.thread.start()
    try:
        assert wait_until(lambda: all(caller.answered >= 6 or caller.error for caller in callers), 120)
    finally:
        stop.set()
        for caller in callers:
            caller.thread.join()
    assert [(caller.thread.name, caller.error, caller.wrong) for caller in callers] == [
        (name, None, 0) for name in ("segment, slides", "cam, slides", "segment", "cam", "image files")
    ]
    assert all(caller.sent == caller.answered for caller in callers)


@pytest.mark.parametrize("kind", ["segment", "cam"])
def test_both_entries_answer_for_lung_tissue(server: EmbeddedTriton, kind: str) -> None:
    with ServedModel(server.address, f"default_{kind}") as client:
        assert client.contract.task.name == "wsss4luad"
        assert client.contract.task.class_names == get_task("wsss4luad").class_names
        assert client.contract.method == "pscl"


def test_both_networks_fit_into_25_mb() -> None:
    networks = list(REPOSITORY.glob("default_r*_net/1/model.onnx"))
    assert len(networks) == 2
    assert sum(path.stat().st_size for path in networks) < 25 * 2**20


def test_its_graphs_are_whole_and_for_every_target() -> None:
    """Files as they were published, and nothing that TensorRT would refuse."""
    (release,) = releases(REPOSITORY, "default")
    assert damaged_files(REPOSITORY, digests_of(REPOSITORY, release)) == []
    for kind in ("segment", "cam"):
        check_tensorrt(onnx.load(REPOSITORY / f"{release.prefix}_{kind}_net" / "1" / "model.onnx"))


def test_its_card_is_beside_it() -> None:
    card = (REPOSITORY / "README.md").read_text()
    for part in ("CC BY 4.0", "research use only", "not a medical device", "held-out"):
        assert part in card


@pytest.mark.slide
@needs_slides
def test_the_served_model_knows_tumor_from_stroma(server: EmbeddedTriton, tmp_path: Path) -> None:
    """On crops it was trained on, by their image-level labels: what is far below this is a part out of order, not a bad model."""
    only = tmp_path / "split.json"
    names = sorted(path.name for path in (CROPS / "img").iterdir())[5:60:6]
    only.write_text(json.dumps({"train": [], "test": names}))
    flags: list[str | Path] = ["--data", CROPS, "--only", only, "--protocol", "masked", "--json"]
    done = histoserve("evaluate", "--served", "default", "--server", server.address, *flags)
    assert done.returncode == 0, done.stderr
    iou = json.loads(done.stdout)["iou"]
    assert sum(iou[:2]) / 2 > 0.45


@pytest.mark.slide
@needs_slides
def test_segment_without_a_model_uses_it(server: EmbeddedTriton, tmp_path: Path) -> None:
    done = histoserve("segment", SLIDES / "cmu-1-small-region.svs", "-o", tmp_path, "--server", server.address, "--json")
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)
    assert entry["summary"]["model"] == "default_segment"
    assert set(entry["summary"]["areas_mm2"]) == {"tumor", "stroma", "normal"}
