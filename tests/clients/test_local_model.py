"""The network in this process: what it answers, and what it refuses."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from clients.errors import ServerError
from clients.local_model import LocalModel
from serving.contract import PROBABILITIES
from serving.engines import RuntimeName
from serving.errors import RepositoryError
from serving.modelconfig import ONNX_FILE, EnsembleConfig, ModelConfig, read_config, write_config
from tests.serving.tiny_release import ENTRY, NET, SLIDE, contract, net_probabilities, random_tiles, write_tiny_release


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_tiny_release(tmp_path / "model_repository")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_answers_as_the_network_does_in_the_order_of_the_batches(repository: Path, runtime: RuntimeName) -> None:
    model = LocalModel(repository, ENTRY, runtime)
    assert model.contract == contract()
    assert model.max_batch == 64
    assert model.engine.startswith(f"{runtime} ")
    batches = [random_tiles(count, seed=count) for count in (3, 1, 3)]
    answers = list(model.stream(enumerate(batches), in_flight=2))
    assert [tag for tag, _ in answers] == [0, 1, 2]
    for (_, outputs), tiles in zip(answers, batches, strict=True):
        assert set(outputs) == {PROBABILITIES}
        np.testing.assert_array_equal(outputs[PROBABILITIES], net_probabilities(tiles))


def test_a_runtime_that_is_not_installed_is_told(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ServerError, match=r"expected the package onnxruntime.*pip install 'histoserve\[local\]'"):
        LocalModel(repository, ENTRY)


def test_it_chooses_what_the_embedded_server_would(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LocalModel(repository, ENTRY).engine.startswith("openvino ")
    with monkeypatch.context() as patched:
        patched.setenv("HISTOSERVE_ENGINE", "onnxruntime")
        assert LocalModel(repository, ENTRY).engine.startswith("onnxruntime ")
    with monkeypatch.context() as patched:
        find = importlib.util.find_spec
        patched.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
        assert LocalModel(repository, ENTRY).engine.startswith("onnxruntime ")
    net = read_config(repository / NET)
    assert isinstance(net, ModelConfig)
    write_config(repository / NET, dataclasses.replace(net, parameters={**net.parameters, "histoserve_engine": "onnxruntime"}))
    assert LocalModel(repository, ENTRY).engine.startswith("onnxruntime ")


def test_what_is_no_model_of_ours_is_refused(repository: Path) -> None:
    with pytest.raises(RepositoryError, match="absent_segment"):
        LocalModel(repository, "absent_segment")
    with pytest.raises(ServerError, match=f"{NET}.*has no contract: check --model"):
        LocalModel(repository, NET)


def test_a_damaged_network_is_told(repository: Path) -> None:
    (repository / NET / "1" / ONNX_FILE).write_bytes(b"no network")
    with pytest.raises(ServerError, match=r"model\.onnx: onnxruntime cannot load this network.*export the model again"):
        LocalModel(repository, ENTRY, "onnxruntime")


def test_a_batch_that_the_network_refuses_is_told(repository: Path) -> None:
    model = LocalModel(repository, ENTRY)
    with pytest.raises(ServerError, match=f"{SLIDE}.*failed on a batch"):
        list(model.stream([(0, np.zeros((1, 8, 8, 3), np.uint8))], in_flight=1))


def test_a_slide_model_of_several_steps_is_refused(repository: Path) -> None:
    slide = read_config(repository / SLIDE)
    assert isinstance(slide, EnsembleConfig)
    write_config(repository / SLIDE, dataclasses.replace(slide, steps=(*slide.steps, *slide.steps)))
    with pytest.raises(ServerError, match=f"{SLIDE}.*expected an ensemble of the network alone"):
        LocalModel(repository, ENTRY)
