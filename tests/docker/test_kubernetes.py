"""The manifests: valid by Kubernetes' own schemas, and each promise of docker/README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import tyro

from serving.cli import Serve
from serving.doctor_cli import Doctor
from serving.exposure import check_version

from .files import AUTOSCALE, BASE, load

MANIFESTS = {path.stem: load(path) for path in BASE.glob("*.yaml") if path.stem != "kustomization"}
POD = MANIFESTS["deployment"]["spec"]["template"]
CONTAINER = POD["spec"]["containers"][0]
LABELS = {"app.kubernetes.io/name": "histoserve", "app.kubernetes.io/component": "triton"}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@pytest.mark.parametrize("version", ["1.30", "1.34", "1.37"])
@pytest.mark.parametrize("name", MANIFESTS)
def test_schema(name: str, version: str) -> None:
    kubernetes_validate.validate(MANIFESTS[name], version, strict=True)


def test_the_schema_check_can_fail() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**MANIFESTS["service"], "spec": {"prots": []}}, "1.34", strict=True)


@pytest.mark.parametrize("folder", [BASE, AUTOSCALE], ids=lambda path: path.name)
def test_kustomization_lists_what_is_there(folder: Path) -> None:
    listed = load(folder / "kustomization.yaml")["resources"]
    assert all((folder / resource).exists() for resource in listed)
    assert {path.name for path in folder.glob("*.yaml")} == {name for name in listed if name.endswith(".yaml")} | {"kustomization.yaml"}


def test_everything_selects_the_pods() -> None:
    assert POD["metadata"]["labels"] == LABELS
    selectors = {
        "deployment": MANIFESTS["deployment"]["spec"]["selector"]["matchLabels"],
        "service": MANIFESTS["service"]["spec"]["selector"],
        "disruption": MANIFESTS["disruption"]["spec"]["selector"]["matchLabels"],
        "network": MANIFESTS["network"]["spec"]["podSelector"]["matchLabels"],
    }
    assert selectors == dict.fromkeys(MANIFESTS, LABELS)


def test_one_gpu_a_pod_and_none_beside_the_old_one() -> None:
    assert CONTAINER["resources"]["limits"]["nvidia.com/gpu"] == CONTAINER["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert MANIFESTS["deployment"]["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


def test_the_pod_is_hardened() -> None:
    assert POD["spec"]["securityContext"]["runAsNonRoot"] is True
    assert POD["spec"]["securityContext"]["runAsUser"] == 1000
    assert POD["spec"]["automountServiceAccountToken"] is False
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_what_must_be_writable_is_mounted() -> None:
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in CONTAINER["volumeMounts"]}
    assert mounts["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
    assert "emptyDir" in mounts["/tmp"]
    assert mounts["/tls"]["secret"]["defaultMode"] == 0o440


def test_the_server_is_started_with_tls() -> None:
    program, *arguments = CONTAINER["args"]
    assert program == "serve"
    exposure = tyro.cli(Serve, args=arguments).exposure
    check_version(exposure, (2, 75, 0))
    assert exposure.has_tls
    assert not exposure.insecure
    ports = {port["containerPort"] for port in CONTAINER["ports"]}
    assert ports == {port for _, port in exposure.ports(8001).values()}


@pytest.mark.parametrize("probe", PROBES)
def test_probes_ask_the_server_that_was_started(probe: str) -> None:
    command = CONTAINER[probe]["exec"]["command"]
    assert command[:2] == ["/opt/histoserve/bin/histoserve", "doctor"]
    asked = tyro.cli(Doctor, args=command[2:])
    started = tyro.cli(Serve, args=CONTAINER["args"][1:])
    assert asked.running
    assert (asked.repository, asked.port) == (started.repository, started.port)
    assert (asked.exposure.own_host, asked.exposure.tls_cert) == (started.exposure.own_host, started.exposure.tls_cert)


def test_probes_wait_longer_than_they_may_take() -> None:
    seconds: dict[str, dict[str, Any]] = {probe: CONTAINER[probe] for probe in PROBES}
    assert seconds["startupProbe"]["periodSeconds"] * seconds["startupProbe"]["failureThreshold"] >= 300  # READY_TIMEOUT_S
    patience = seconds["livenessProbe"]["periodSeconds"] * seconds["livenessProbe"]["failureThreshold"]
    assert patience > seconds["readinessProbe"]["periodSeconds"] * seconds["readinessProbe"]["failureThreshold"]


def test_the_service_is_headless() -> None:
    service = MANIFESTS["service"]["spec"]
    assert service["clusterIP"] == "None"
    names = {port["name"] for port in CONTAINER["ports"]}
    assert {port["targetPort"] for port in service["ports"]} == names


def test_the_network_is_shut_but_for_clients_and_scrapes() -> None:
    policy = MANIFESTS["network"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == {8001, 8002}
    assert all(rule["from"] for rule in policy["ingress"])  # a rule without `from` lets everybody in


def test_scaling_aims_at_the_deployment_and_waits_for_loads() -> None:
    scaled = load(AUTOSCALE / "scaledobject.yaml")["spec"]
    assert scaled["scaleTargetRef"]["name"] == MANIFESTS["deployment"]["metadata"]["name"]
    assert scaled["minReplicaCount"] < scaled["maxReplicaCount"]
    startup = CONTAINER["startupProbe"]
    assert scaled["cooldownPeriod"] >= startup["periodSeconds"] * startup["failureThreshold"]
