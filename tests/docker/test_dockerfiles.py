"""The images as far as they can be judged without building them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tyro

from serving.advisories import LEAST_FOR_A_NETWORK
from serving.cli import Serve
from serving.doctor_cli import Doctor

from .files import DOCKER, DOCKERFILES, ROOT, instructions

TRITON = DOCKER / "triton.Dockerfile"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint(dockerfile: Path) -> None:
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([program, dockerfile], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_nobody_runs_as_root(dockerfile: Path) -> None:
    assert instructions(dockerfile, "USER")[-1] == "1000:1000"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_a_base_is_named_by_its_version(dockerfile: Path) -> None:
    for base in instructions(dockerfile, "FROM"):
        assert re.fullmatch(r"(nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3|python:3\.\d+-slim-bookworm)", base)


def test_the_triton_image_may_face_a_network() -> None:
    (base,) = instructions(TRITON, "FROM")
    release = base.split(":")[1].removesuffix("-py3")
    assert release >= LEAST_FOR_A_NETWORK.container


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_is_there_and_not_ignored(dockerfile: Path) -> None:
    allowed = {
        line[1:].split("/")[0] for line in (DOCKER / f"{dockerfile.name}.dockerignore").read_text().splitlines() if line.startswith("!")
    }
    for copied in instructions(dockerfile, "COPY"):
        for source in copied.split()[:-1]:
            assert (ROOT / source).exists()
            assert source.split("/")[0] in allowed


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_every_package_and_extra_is_installed_from_what_is_copied(dockerfile: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {*project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"], "pyproject.toml", "README.md", "LICENSE"}
    assert needed <= {source for copied in instructions(dockerfile, "COPY") for source in copied.split()[:-1]}
    (extras,) = [match[1] for run in instructions(dockerfile, "RUN") if (match := re.search(r"/opt/build\[(.+?)\]", run))]
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])


def test_the_images_commands_are_histoserves() -> None:
    (command,) = instructions(TRITON, "CMD")
    program, *arguments = json.loads(command)
    assert program == "serve"
    assert tyro.cli(Serve, args=arguments).exposure.is_local
    (health,) = instructions(TRITON, "HEALTHCHECK")
    _, program, *arguments = json.loads(health.split("CMD", 1)[1])
    assert program == "doctor"
    assert tyro.cli(Doctor, args=arguments).running


def test_the_steps_environment_is_the_laptops_without_the_engines(tmp_path: Path) -> None:
    """The very sed of the image, on the very file."""
    (run,) = [run for run in instructions(TRITON, "RUN") if "sed " in run]
    (expression,) = re.findall(r"sed --regexp-extended '(.+?)'", run)
    source = ROOT / "serving" / "embedded-requirements.txt"
    done = subprocess.run(["sed", "--regexp-extended", expression, source], capture_output=True, text=True, check=True)
    kept = {line.split("==")[0] for line in done.stdout.splitlines() if line and not line.startswith("#")}
    before = {line.split("==")[0] for line in source.read_text().splitlines() if line and not line.startswith("#")}
    assert {"numpy", "pillow", "scipy"} <= kept
    assert before - kept <= {"onnxruntime", "openvino"}
    assert not {"onnxruntime", "openvino"} & kept


def test_compose_is_valid_by_its_own_tool(tmp_path: Path) -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("Debian's docker-compose is not installed here")
    for files in (["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]):
        flags = [flag for file in files for flag in ("--file", str(DOCKER / file))]
        done = subprocess.run([program, *flags, "config", "--quiet"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
