"""Every metric that the dashboard, the alerts and the scaling ask for is one that the real Triton gives, with the labels they use."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.embedded import EmbeddedTriton
from serving.exposure import Exposure
from serving.port import free_port
from tests.serving import tiny_release as tiny

from .files import AUTOSCALE, DOCKER, dashboard, load

_METRIC = re.compile(r"\bnv_\w+")
_SELECTOR = re.compile(r"(nv_\w+)\{([^}]*)\}")
_QUANTILES = re.compile(r'quantile="([\d.]+)"')


def expressions() -> list[str]:
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    alerts = [rule["expr"] for group in load(DOCKER / "monitoring" / "alerts.yml")["groups"] for rule in group["rules"]]
    scaling = [trigger["metadata"]["query"] for trigger in load(AUTOSCALE / "scaledobject.yaml")["spec"]["triggers"]]
    variables = [variable["query"]["query"] for variable in dashboard()["templating"]["list"]]
    return [*panels, *alerts, *scaling, *variables]


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    repository = tiny.write_tiny_release(tmp_path_factory.mktemp("served") / "model_repository")
    exposure = Exposure(metrics_port=free_port())
    with (
        EmbeddedTriton(repository, [tiny.ENTRY], exposure=exposure),
        urllib.request.urlopen(f"http://127.0.0.1:{exposure.metrics_port}/metrics", timeout=10) as answer,
    ):
        yield answer.read().decode()


@pytest.mark.triton
def test_every_metric_exists(metrics: str) -> None:
    known = set(re.findall(r"^# TYPE (\S+)", metrics, re.MULTILINE))
    asked = {metric for expression in expressions() for metric in _METRIC.findall(expression)}
    on_gpu = {metric for metric in asked if metric.startswith("nv_gpu_")}  # none here: named by the research (serving.md §1.9)
    assert {"nv_inference_count", "nv_inference_request_summary_us"} <= asked
    assert asked - on_gpu <= known


@pytest.mark.triton
def test_every_label_exists(metrics: str) -> None:
    for expression in expressions():
        for metric, selector in _SELECTOR.findall(expression):
            labels = set(re.findall(r"(\w+)\s*[=!]~?", selector))
            series = [line for line in metrics.splitlines() if line.startswith(f"{metric}{{")]
            assert any(all(f'{label}="' in line for label in labels) for line in series), (metric, labels)
        for quantile in _QUANTILES.findall(expression):
            assert f'quantile="{quantile}"' in metrics


@pytest.mark.triton
def test_scaling_looks_at_models_that_queue(metrics: str) -> None:
    """Ensembles never count: the pattern must hit a network."""
    (query,) = (trigger["metadata"]["query"] for trigger in load(AUTOSCALE / "scaledobject.yaml")["spec"]["triggers"])
    (pattern,) = set(re.findall(r'model=~"(.+?)"', query))
    models = set(re.findall(r'nv_inference_count\{model="(.+?)"', metrics))
    assert {model for model in models if re.fullmatch(pattern, model)} == {tiny.NET}


def test_the_dashboard_is_whole() -> None:
    board = dashboard()
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places) == 12
    assert len({panel["id"] for panel in board["panels"]}) == len(places)
    assert all(panel["description"] for panel in board["panels"])
    source = load(DOCKER / "monitoring" / "provisioning" / "datasources" / "prometheus.yml")["datasources"][0]
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}


def test_grafana_finds_the_dashboard() -> None:
    provider = load(DOCKER / "monitoring" / "provisioning" / "dashboards" / "histoserve.yml")["providers"][0]
    mounted = [volume.split(":")[1] for volume in load(DOCKER / "compose.yaml")["services"]["grafana"]["volumes"]]
    assert any(Path(target).parent == Path(provider["options"]["path"]) for target in mounted)
