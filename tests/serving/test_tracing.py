"""The traces of the real Triton at an OpenTelemetry collector: one of so many requests, with a span for each step."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpcclient

import serving.exposure
import serving.launch
from serving.canary import ask
from serving.contract import LABELS
from serving.embedded import EmbeddedTriton
from serving.exposure import Exposure

from . import tiny_release as tiny


class Collector(ThreadingHTTPServer):
    """Takes what is sent by OTLP over HTTP and keeps it, with the path it was sent to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.sent: list[tuple[str, Any]] = []

    @property
    def spans(self) -> list[dict[str, Any]]:
        resources = [resource for _, body in self.sent for resource in body["resourceSpans"]]
        return [span for resource in resources for scope in resource["scopeSpans"] for span in scope["spans"]]

    def services(self) -> set[str]:
        found = [attribute for _, body in self.sent for sent in body["resourceSpans"] for attribute in sent["resource"]["attributes"]]
        return {attribute["value"]["stringValue"] for attribute in found if attribute["key"] == "service.name"}


class _Answer(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.sent.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *values: object) -> None:
        """Nothing: the test looks at what came."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield listening
        listening.shutdown()
        thread.join(20)


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.usefixtures("triton")
def test_one_of_so_many_requests_is_traced_through_its_steps(
    repository: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 2.51, which is refused by default since long runs crash; what it sends in a short one shows that the flags are right."""
    monkeypatch.setattr(serving.exposure, "SOUND_TRACING", (2, 51))
    monkeypatch.setattr(serving.launch, "_TRACE_EVERY", 20)
    exposure = Exposure(trace_otlp=f"http://127.0.0.1:{collector.server_port}/v1/traces")
    with EmbeddedTriton(repository, [tiny.ENTRY], exposure=exposure) as server, grpcclient.InferenceServerClient(server.address) as client:
        for _ in range(40):
            ask(client, tiny.ENTRY, tiny.random_tiles(1, seed=1), (LABELS,))
    assert {path for path, _ in collector.sent} == {"/v1/traces"}
    assert collector.services() == {"histoserve"}
    roots = [span for span in collector.spans if span["name"] == "InferRequest"]
    assert len(roots) == 2
    for root in roots:
        of_this = {span["name"] for span in collector.spans if span["traceId"] == root["traceId"]}
        assert {tiny.NET, tiny.RULE_STEP, tiny.COMBINE} <= of_this
    assert tiny.ENTRY in {span["name"] for span in collector.spans}
