"""`histoserve doctor` on a fit machine, and on one with one thing broken at a time. Everything it looks at is real."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import socket
import stat
from pathlib import Path

import pytest
import trustme

from serving.canary import CANARY_FILE
from serving.doctor import examine, examine_repository, examine_running
from serving.doctor_cli import main
from serving.doctor_machine import free_port, gpu, hides_processes, other_users
from serving.embedded import EmbeddedTriton
from serving.exposure import Exposure
from serving.findings import Finding, Question, would_serve
from serving.modelconfig import ModelConfig, write_config
from serving.sockets import listeners
from serving.triton_install import TritonInstall

from . import tiny_release as tiny

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("triton")]


def look(question: Question, **changed: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(question, {**os.environ, **changed})}


def failures(findings: dict[str, Finding]) -> list[str]:
    return [name for name, finding in findings.items() if finding.status == "failure"]


@pytest.fixture
def question(repository: Path, free_tcp_port: int) -> Question:
    return Question(repository, (), free_tcp_port)


@pytest.fixture
def copied(triton: TritonInstall, tmp_path: Path) -> Path:
    """The environment once more, of links, for a test to damage."""
    folder = tmp_path / "triton"
    shutil.copytree(triton.folder, folder, symlinks=True, copy_function=link, ignore=shutil.ignore_patterns("__pycache__", "imagecodecs*"))
    return folder


def link(source: str, target: str) -> str:
    Path(target).symlink_to(Path(source).absolute())
    return target


def test_a_fit_machine(question: Question, triton: TritonInstall) -> None:
    findings = look(question)
    assert failures(findings) == []
    assert findings["Triton"].found == f"2.51.0 of the wheel, {triton.server}"
    assert findings["published holes"].status == "warning"
    assert findings["backends"].found == "python (and histoserve's own onnxruntime)"
    assert findings["python stub"].found.startswith(f"Python {triton.python_version} with {triton.libpython_folder}")
    assert findings["numpy of the server"].found.startswith("1.")
    assert findings["port of gRPC"].found == f"127.0.0.1:{question.port} is free"
    assert findings["repository"].found == f"{tiny.ENTRY}: 6 models fit together"
    assert findings[f"release {tiny.RELEASE}"].found == "canary there; no release.json to compare the graphs with"
    assert "MB free" in findings["shared memory"].found


def test_no_installation(question: Question, tmp_path: Path) -> None:
    findings = look(question, HISTOSERVE_TRITON=str(tmp_path / "none"))
    assert failures(findings) == ["Triton"]
    assert findings["Triton"].remedy == "run make setup, or name it in $HISTOSERVE_TRITON"
    assert findings["repository"].status == "OK"  # the rest is looked at all the same


def test_a_missing_binary(question: Question, copied: Path) -> None:
    (server,) = copied.rglob("bin/tritonserver")
    server.unlink()
    findings = look(question, HISTOSERVE_TRITON=str(copied))
    assert failures(findings) == ["Triton", "python stub"]
    assert "expected Triton's binary, found none (No such file or directory)" in findings["Triton"].found
    assert findings["Triton"].remedy == "run make setup again"


def test_a_missing_stub_and_backend(question: Question, copied: Path) -> None:
    for stub in copied.rglob("triton_python_backend_stub"):
        stub.unlink()
    findings = look(question, HISTOSERVE_TRITON=str(copied))
    assert failures(findings) == ["python stub"]
    assert "may have no stub here" in findings["python stub"].found + findings["python stub"].remedy
    (backends,) = copied.rglob("tritonserver/backends")
    shutil.rmtree(backends)
    assert failures(look(question, HISTOSERVE_TRITON=str(copied))) == ["backends", "python stub"]


def test_numpy_2_in_the_servers_environment(question: Question, copied: Path) -> None:
    """As `pip install numpy` would leave it: another version in the package's own record."""
    (record,) = copied.rglob("numpy-1.*.dist-info/METADATA")
    text = record.read_text().replace("\nVersion: 1.26.4\n", "\nVersion: 2.4.6\n")
    record.unlink()
    record.write_text(text)
    findings = look(question, HISTOSERVE_TRITON=str(copied))
    assert failures(findings) == ["numpy of the server", "packages of the server"]
    assert "found 2.4.6, with which this Triton's tensors arrive silently wrong" in findings["numpy of the server"].found
    assert findings["numpy of the server"].remedy == "run make setup again"


def test_missing_packages(question: Question, copied: Path) -> None:
    for openvino in copied.rglob("openvino-*.dist-info"):  # there or not, as somebody installed it
        shutil.rmtree(openvino)
    findings = look(question, HISTOSERVE_TRITON=str(copied))
    assert failures(findings) == []
    assert findings["engine"].status == "warning"
    assert findings["engine"].remedy == f"{copied / 'bin' / 'pip'} install openvino"
    (onnxruntime,) = copied.rglob("onnxruntime-*.dist-info")
    shutil.rmtree(onnxruntime)
    findings = look(question, HISTOSERVE_TRITON=str(copied))
    assert failures(findings) == ["packages of the server", "engine"]
    assert "lacks onnxruntime" in findings["packages of the server"].found


def test_a_broken_binary(question: Question, copied: Path) -> None:
    (server,) = copied.rglob("bin/tritonserver")
    server.unlink()
    server.write_text("#!/bin/sh\necho libfoo.so: cannot open shared object file >&2\nexit 127\n")
    server.chmod(0o755)
    findings = look(question, HISTOSERVE_TRITON=str(copied))
    assert failures(findings) == ["Triton"]
    assert "expected its flags, got 'libfoo.so: cannot open shared object file'" in findings["Triton"].found


def test_a_corrupt_repository(question: Question) -> None:
    path = question.repository / tiny.NET / "config.pbtxt"
    path.write_text("name: ")
    findings = look(question)
    assert failures(findings) == ["repository"]
    assert str(path) in findings["repository"].found
    findings = look(dataclasses.replace(question, repository=question.repository / "none"))
    assert failures(findings) == ["repository"]
    assert findings["repository"].remedy == "export a model into it, or run make demo"


def test_a_graph_that_was_changed(question: Question) -> None:
    graph = question.repository / tiny.NET / "1" / "model.onnx"
    digests = {tiny.NET: hashlib.sha256(graph.read_bytes()).hexdigest()}
    notes = question.repository / tiny.RELEASE / "release.json"
    notes.write_text(json.dumps({"sha256": digests}))
    assert repository_finding(question).found == "canary there; 1 graphs as exported"
    graph.write_bytes(graph.read_bytes()[:-1])
    assert repository_finding(question).status == "failure"
    assert f"{graph}: expected the graph that was exported, its checksum differs" in repository_finding(question).found
    notes.write_text("{")
    assert "cannot read them" in repository_finding(question).found


def test_a_damaged_canary(question: Question) -> None:
    (question.repository / tiny.RELEASE / CANARY_FILE).write_bytes(b"PK")
    assert "cannot read it" in repository_finding(question).found
    (question.repository / tiny.RELEASE / CANARY_FILE).unlink()
    assert repository_finding(question).remedy == "export the model again"


def repository_finding(question: Question) -> Finding:
    findings, _ = examine_repository(question)
    return findings[-1]


def test_a_port_in_use_names_its_user(question: Question) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", question.port))
        taken.listen()
        findings = look(question)
    assert failures(findings) == ["port of gRPC"]
    assert f"127.0.0.1:{question.port} by" in findings["port of gRPC"].found
    assert f"(process {os.getpid()})" in findings["port of gRPC"].found
    assert findings["port of gRPC"].remedy == "stop that, or choose another --port"


def test_a_port_taken_on_every_address() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert "0.0.0.0" in [listener.address for listener in listeners() if listener.port == port]
        assert f"0.0.0.0:{port} by" in free_port("gRPC", "127.0.0.1", port).found


def test_too_little_shared_memory(question: Question) -> None:
    """More instances than any machine's /dev/shm takes."""
    (net,) = (config for config in tiny.configs() if isinstance(config, ModelConfig) and config.name == tiny.NET)
    write_config(question.repository / tiny.NET, dataclasses.replace(net, instance_count=1_000_000))
    findings = look(question)
    assert failures(findings) == ["shared memory"]
    assert "/dev/shm: expected 64000192 MB free for 1000002 model instances" in findings["shared memory"].found


def test_no_place_for_temporary_files(question: Question, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert failures(look(question)) == ["temporary folder"]


def test_a_backend_that_is_not_there(question: Question) -> None:
    """A TensorRT engine in the CPU lane: neither backend nor GPU."""
    (net,) = (config for config in tiny.configs() if isinstance(config, ModelConfig) and config.name == tiny.NET)
    changed = dataclasses.replace(net, backend="tensorrt", parameters={})
    write_config(question.repository / tiny.NET, changed)
    (question.repository / tiny.NET / "1" / "model.plan").write_bytes(b"engine")
    findings = look(question, PATH="/nowhere")
    assert failures(findings)[:1] == ["backends"]
    assert f"expected tensorrt (for {tiny.NET})" in findings["backends"].found


def test_a_gpu_tool_that_fails(tmp_path: Path) -> None:
    """A driver that broke is a program that fails: this one does."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho NVML: driver mismatch\nexit 18\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    found = gpu({}, {"PATH": str(tmp_path)})
    assert (found.status, found.found) == ("warning", "nvidia-smi fails: NVML: driver mismatch")
    program.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB, 590.1'\n")
    assert gpu({}, {"PATH": str(tmp_path)}) == Finding("GPU", "OK", "NVIDIA H100, 81559 MiB, 590.1")


def test_a_network_is_refused_to_the_embedded_triton(question: Question, tmp_path: Path) -> None:
    pair = trustme.CA().issue_cert("triton.example")
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    pair.cert_chain_pems[0].write_to_path(str(certificate))
    pair.private_key_pem.write_to_path(str(key))
    exposure = Exposure(address="0.0.0.0", tls_cert=certificate, tls_key=key)
    findings = look(dataclasses.replace(question, exposure=exposure))
    assert failures(findings) == ["published holes"]
    assert findings["certificates"].found.startswith("made out to triton.example; expires in ")
    assert findings["exposure"].status == "warning"
    exposure = dataclasses.replace(exposure, tls_key=certificate)
    assert "certificates" in failures(look(dataclasses.replace(question, exposure=exposure)))


def test_who_could_read_the_secret() -> None:
    assert hides_processes("proc /proc proc rw,nosuid,hidepid=invisible 0 0\n")
    assert hides_processes("proc /proc proc rw,hidepid=2 0 0\n")
    assert not hides_processes("proc /proc proc rw,relatime 0 0\ntmpfs /x proc rw,hidepid=2 0 0\n")


def test_other_users_by_their_processes(tmp_path: Path) -> None:
    """Folders stand for processes: what counts is who owns them."""
    (tmp_path / "17").mkdir()
    (tmp_path / "self").mkdir()
    assert other_users(tmp_path) == []
    if os.getuid() == 0:  # only root can give folders away
        for number, owner in (("18", 1234), ("19", 33), ("20", 65534)):
            (tmp_path / number).mkdir()
            os.chown(tmp_path / number, owner, owner)
        assert other_users(tmp_path) == [1234]


def test_a_running_server(repository: Path) -> None:
    with EmbeddedTriton(repository, [tiny.ENTRY]) as server:
        port = int(server.address.split(":")[1])
        question = Question(repository, (), port)
        findings = list(examine_running(question))
        assert would_serve(findings)
        assert findings[-1].found == f"127.0.0.1:{port}: ready; right values from {tiny.RELEASE}"
        other = repository.parent / "other"
        shutil.copytree(repository, other)
        shutil.copy(repository / tiny.RELEASE / CANARY_FILE, other / tiny.RELEASE / CANARY_FILE)
        damage_canary(other / tiny.RELEASE / CANARY_FILE)
        findings = list(examine_running(Question(other, (), port)))
        assert "answers wrong values" in findings[-1].found
    findings = list(examine_running(question))
    assert not would_serve(findings)
    assert "expected a Triton, none answers" in findings[-1].found


def damage_canary(path: Path) -> None:
    import numpy as np

    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["LABELS"] = arrays["LABELS"] + np.uint8(1)
    np.savez(path, **arrays)


def test_the_command(question: Question, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--repository", str(question.repository), "--port", str(question.port)]
    assert main(flags) == 0
    out = capsys.readouterr().out
    assert "serving would work" in out
    assert "1.26.4" in out
    (question.repository / tiny.COMBINE / "1" / "model.onnx").unlink()
    assert main(flags) == 1
    out = capsys.readouterr().out
    assert "serving would fail: repository" in out
    assert "→ export the model again" in out


def test_the_command_for_machines(question: Question, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--json", "--repository", str(question.repository), "--port", str(question.port)]
    assert main(flags) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["would_serve"] is True
    assert {"name", "status", "found", "remedy"} == set(answer["findings"][0])
    assert main([*flags, "--model", "nothing"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["would_serve"] is False
    assert [finding["name"] for finding in answer["findings"] if finding["status"] == "failure"] == ["repository"]


def test_wrong_usage_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--address", "0.0.0.0"])
    assert caught.value.code == 2
    assert "--tls-cert" in capsys.readouterr().err
