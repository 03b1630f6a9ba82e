"""Our ONNX Runtime backend on the real embedded Triton: which engine it says it runs, what it refuses, and what stays out of the home folder."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from serving.accelerator import Accelerator
from serving.canary import ask
from serving.contract import LABELS, PROBABILITIES
from serving.embedded import EmbeddedTriton
from serving.errors import CanaryError, StartError
from serving.modelconfig import ModelConfig, read_config, write_config
from serving.modeloptions import Options
from serving.triton_install import TritonInstall

from . import tiny_release as tiny

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("triton")]


def change_net(repository: Path, **changes: object) -> None:
    config = read_config(repository / tiny.NET)
    assert isinstance(config, ModelConfig)
    write_config(repository / tiny.NET, dataclasses.replace(config, **changes))  # type: ignore[arg-type]


def engine_lines(log: Path) -> list[str]:
    return [line.partition("] ")[2].strip('"') for line in log.read_text().splitlines() if "on the CPU, threads:" in line]


def test_openvino_is_said_once_per_model_with_its_reason(repository: Path, triton: TritonInstall, tmp_path: Path) -> None:
    change_net(repository, instance_count=2)
    log = tmp_path / "triton.log"
    with EmbeddedTriton(repository, [tiny.ENTRY], log_path=log):
        pass
    version = triton.versions["openvino"]
    net, combine = sorted(engine_lines(log), key=lambda line: tiny.NET not in line)
    assert f"model '{tiny.NET}' runs in OpenVINO {version}" in net
    assert net.endswith("on the CPU, threads: 1; chosen since it is installed beside the server")
    assert f"model '{tiny.COMBINE}' runs in OpenVINO {version}" in combine
    assert "threads: all" in combine


@pytest.mark.parametrize("forced", ["variable", "parameter"])
def test_onnx_runtime_can_be_forced(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    log, tiles = tmp_path / "triton.log", tiny.random_tiles(3, seed=1)
    if forced == "variable":
        monkeypatch.setenv("HISTOSERVE_ENGINE", "onnxruntime")
        change_net(repository, options=Options(accelerator=Accelerator("openvino")))
    else:
        change_net(repository, parameters={"intra_op_thread_count": "1", "histoserve_engine": "onnxruntime"})
    with EmbeddedTriton(repository, [tiny.NET], log_path=log) as server, grpcclient.InferenceServerClient(server.address) as client:
        served = ask(client, tiny.NET, tiles, (LABELS, PROBABILITIES))
    np.testing.assert_array_equal(served[LABELS], tiny.net_labels(tiles))
    (line,) = engine_lines(log)
    assert "runs in ONNX Runtime " in line
    assert line.endswith("$HISTOSERVE_ENGINE says so" if forced == "variable" else "config.pbtxt says so (histoserve_engine)")


@pytest.mark.parametrize("engine", ["", "onnxruntime"], ids=["openvino", "onnxruntime"])
def test_a_bad_request_fails_alone_in_every_engine(repository: Path, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    """Three callers in one batch; the graph fails on it, and the two good ones get their own rows."""
    monkeypatch.setenv("HISTOSERVE_ENGINE", engine)
    first, bad, last = (tiny.random_tiles(2, seed=seed) for seed in (5, 6, 7))
    bad[1, 0, 0, 0] = tiny.MAX_RED + 1
    barrier = threading.Barrier(3)
    with EmbeddedTriton(repository, [tiny.NET]) as server, grpcclient.InferenceServerClient(server.address) as client:

        def call(tiles: tiny.Tiles) -> tiny.Tiles:
            barrier.wait()
            return ask(client, tiny.NET, tiles, (PROBABILITIES,))[PROBABILITIES]

        with ThreadPoolExecutor(3) as pool:
            answers = [pool.submit(call, tiles) for tiles in (first, bad, last)]
            for tiles, answer in ((first, answers[0]), (last, answers[2])):
                np.testing.assert_array_equal(answer.result(), tiny.net_probabilities(tiles))
            with pytest.raises(CanaryError, match="ONNX Runtime: " if engine else "OpenVINO: "):
                answers[1].result()
        statistics = client.get_inference_statistics(tiny.NET, headers=server.admin_headers).model_stats[0]
        assert [entry.batch_size for entry in statistics.batch_stats] == [6]  # they did meet


def test_an_accelerator_of_the_gpu_is_refused(repository: Path, tmp_path: Path) -> None:
    change_net(repository, options=Options(accelerator=Accelerator("tensorrt")))
    with (
        pytest.raises(StartError, match=f"model '{tiny.NET}': expected no accelerator of the GPU, got tensorrt"),
        EmbeddedTriton(repository, [tiny.NET], log_path=tmp_path / "triton.log"),
    ):
        pass


def test_openvino_leaves_nothing_in_the_home_folder(
    repository: Path, triton: TritonInstall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its telemetry would write an identity there."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HISTOSERVE_TRITON", str(triton.folder))
    monkeypatch.setenv("HOME", str(home))
    log = tmp_path / "triton.log"
    with EmbeddedTriton(repository, [tiny.NET], log_path=log):
        pass
    assert "OpenVINO" in engine_lines(log)[0]
    assert not list(home.rglob("*"))
