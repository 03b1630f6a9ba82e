"""compose.yaml by what it promises: hardened, nothing published but Grafana on loopback, files that are there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro
from yamllint import linter
from yamllint.config import YamlLintConfig

from clients.cli import SegmentConfig
from serving.cli import Serve
from serving.exposure import check_version

from .files import DOCKER, load

COMPOSE = load(DOCKER / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
STYLE = "{extends: default, rules: {line-length: {max: 140}, document-start: disable, comments: {min-spaces-from-content: 1}}}"


@pytest.mark.parametrize("path", sorted([*DOCKER.rglob("*.yaml"), *DOCKER.rglob("*.yml")]), ids=lambda path: path.name)
def test_yamllint(path: Any) -> None:
    assert [str(problem) for problem in linter.run(path.read_text(), YamlLintConfig(STYLE))] == []


def schema_faults(*files: Path) -> str:
    """What the Compose specification's own schema says, by the copy that check-jsonschema brings along; empty where nothing."""
    program = Path(sys.executable).parent / "check-jsonschema"
    command = [str(program), "--builtin-schema", "vendor.compose-spec", *(str(file) for file in files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout + done.stderr if done.returncode else ""


def test_compose_files_are_valid_by_the_specification(tmp_path: Path) -> None:
    text = (DOCKER / "compose.yaml").read_text()
    misspelled = tmp_path / "compose.yaml"
    misspelled.write_text(text.replace("read_only:", "raed_only:"))
    assert schema_faults(DOCKER / "compose.yaml", DOCKER / "compose.gpu.yaml") == ""
    assert "raed_only" in schema_faults(misspelled)


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged")
    assert "latest" not in service.get("image", "")


def test_only_grafana_is_published_and_on_loopback() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {"grafana": ["127.0.0.1:3000:3000"]}
    assert COMPOSE["networks"]["serving"]["internal"] is True
    assert SERVICES["triton"]["networks"] == ["serving"]


def test_triton_is_started_with_flags_that_exist_and_may_be_combined() -> None:
    program, *arguments = SERVICES["triton"]["command"]
    assert program == "serve"
    options = tyro.cli(Serve, args=arguments)
    check_version(options.exposure, (2, 75, 0))
    assert options.exposure.ports(options.port) == {"gRPC": ("0.0.0.0", 8001), "metrics": ("0.0.0.0", 8002)}
    assert "triton:8002" in load(DOCKER / "monitoring" / "prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"]


def test_the_client_of_the_header_is_a_command() -> None:
    (line,) = [line for line in (DOCKER / "compose.yaml").read_text().splitlines() if " run --rm client " in line]
    program, *arguments = line.split(" run --rm client ")[1].split()
    assert program == "segment"
    options = tyro.cli(SegmentConfig, args=arguments)
    assert options.server == "triton:8001"
    targets = [volume.rsplit(":", 2)[1] if volume.endswith(":ro") else volume.rsplit(":", 1)[1] for volume in SERVICES["client"]["volumes"]]
    assert targets == ["/slides", "/out"]
    assert str(options.output) in targets


def test_mounted_files_are_there() -> None:
    mounted = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    for source in mounted:
        if source.startswith("."):
            assert (DOCKER / source).exists()
        else:
            assert source.startswith("$") or source in COMPOSE["volumes"]


def test_shared_memory_is_enough_for_the_release_that_ships() -> None:
    """A stub takes 64 MB, and there is one more for growth; the container's default is 64 MB in all."""
    from serving.check import check_repository, entry_names
    from serving.launch import require_shared_memory

    repository = DOCKER.parent / "model_repository"
    shipped = [name for name in entry_names(repository) if name.startswith("default_")]
    assert SERVICES["triton"]["shm_size"] == "2g"
    require_shared_memory(check_repository(repository, shipped).values(), 2 * 2**30)


def test_the_gpu_file_adds_to_a_service_that_is_there() -> None:
    (name,) = load(DOCKER / "compose.gpu.yaml")["services"]
    assert name in SERVICES
