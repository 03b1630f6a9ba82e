"""A part installed alone, in a clean virtual environment: clients and serving work without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

pytestmark = pytest.mark.install

IMPORT_ALL = """
import importlib, importlib.util, json, pkgutil, sys
import clients, serving
names = []
for package in (clients, serving):
    for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if not found.ispkg:
            importlib.import_module(found.name)
            names.append(found.name)
print(json.dumps({
    "modules": names, "from": clients.__file__,
    "torch": importlib.util.find_spec("torch") is not None,
    "heavy": sorted({name.split(".")[0] for name in sys.modules} & {"torch", "timm", "onnx", "transformers", "training", "export"}),
}))
"""
FILES = "import importlib.metadata, json; print(json.dumps([str(file) for file in importlib.metadata.files('histoserve')]))"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    binaries = folder / "venv" / "bin"
    subprocess.run([binaries / "pip", "install", "--quiet", "--disable-pip-version-check", f"{ROOT}[client]"], check=True)
    return binaries


def run(clean: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([clean / command[0], *command[1:]], cwd=clean.parent, capture_output=True, text=True, check=False)


def test_clients_and_serving_need_no_torch(clean: Path) -> None:
    done = run(clean, "python", "-W", "error", "-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert str(clean.parent) in told["from"]
    assert not told["torch"]
    assert told["heavy"] == []
    assert {"clients.segment", "clients.cli", "serving.embedded", "serving.contract"} <= set(told["modules"])


def test_the_command_says_which_extra_is_missing(clean: Path) -> None:
    assert run(clean, "histoserve", "segment", "--help").returncode == 0
    done = run(clean, "histoserve", "train", "--help")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install 'histoserve[train]'")


def test_the_wheel_holds_the_code_and_what_it_reads_and_no_more(clean: Path) -> None:
    files = json.loads(run(clean, "python", "-c", FILES).stdout)
    inside = {file for file in files if not file.startswith(("..", "histoserve-")) and "__pycache__" not in file}
    assert {file.split("/")[0] for file in inside} == {"histoserve.py", "training", "export", "serving", "clients", "benchmarks"}
    assert {
        "training/recipes/demo.toml",
        "serving/embedded-requirements.txt",
        "serving/backends/onnxruntime/model.py",
        "clients/py.typed",
    } <= inside
