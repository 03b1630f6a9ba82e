"""The Job that segments a cohort in parts: valid, hardened, and its command is one of ours."""

from __future__ import annotations

from pathlib import Path

import kubernetes_validate
import pytest
import tyro

from clients.cli import SegmentConfig
from clients.shard import Shard

from .files import BASE, DOCKER, load

JOB = load(DOCKER / "kubernetes" / "indexed-job.yaml")
POD = JOB["spec"]["template"]
CONTAINER = POD["spec"]["containers"][0]


def arguments(ca: Path, index: int) -> list[str]:
    """What the pod of an index is started with: Kubernetes puts its number in, the certificate is another one here."""
    program, *given = CONTAINER["args"]
    assert program == "segment"
    return [argument.replace("$(JOB_COMPLETION_INDEX)", str(index)).replace("/tls/ca.crt", str(ca)) for argument in given]


@pytest.mark.parametrize("version", ["1.30", "1.34", "1.37"])
def test_schema(version: str) -> None:
    kubernetes_validate.validate(JOB, version, strict=True)


def test_each_index_is_a_part_and_no_part_is_left_out(tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    ca.touch()
    configs = [tyro.cli(SegmentConfig, args=arguments(ca, index)) for index in range(JOB["spec"]["completions"])]
    assert [config.part for config in configs] == [Shard(index, len(configs)) for index in range(len(configs))]
    assert all(config.skip_existing for config in configs)


def test_it_finds_the_server_and_its_folders(tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    ca.touch()
    config = tyro.cli(SegmentConfig, args=arguments(ca, 0))
    service = load(BASE / "service.yaml")
    assert config.servers == (f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}",)
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in CONTAINER["volumeMounts"]}
    assert mounts == {"/slides": True, "/masks": False, "/tls": True, "/tmp": False}
    assert ([*config.slides], config.output) == (["/slides"], "/masks")
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {volume["name"] for volume in POD["spec"]["volumes"]}


def test_the_network_lets_it_in_and_the_pod_is_hardened() -> None:
    policy = load(BASE / "network.yaml")["spec"]
    (allowed,) = [source["podSelector"]["matchLabels"] for rule in policy["ingress"] for source in rule["from"] if "podSelector" in source]
    assert allowed.items() <= POD["metadata"]["labels"].items()
    base = load(BASE / "deployment.yaml")["spec"]["template"]["spec"]
    assert POD["spec"]["securityContext"] == base["securityContext"]
    assert CONTAINER["securityContext"] == base["containers"][0]["securityContext"]


def test_a_part_that_fails_leaves_the_others_alone() -> None:
    assert JOB["spec"]["completionMode"] == "Indexed"
    assert POD["spec"]["restartPolicy"] == "Never"  # what backoffLimitPerIndex wants
    assert JOB["spec"]["backoffLimitPerIndex"] > 0
