"""What the tests of serving share: a hand-made release, and the embedded Triton on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient

from serving.embedded import EmbeddedTriton
from serving.port import free_port
from serving.triton_install import TritonInstall, find_install

from .tiny_release import ENTRY, write_tiny_release


@pytest.fixture(scope="session")
def triton() -> TritonInstall:
    """Without an installation the test fails and says what to do: a skipped server test would look like a passed one."""
    return find_install()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A release that a test may damage."""
    return write_tiny_release(tmp_path / "model_repository")


@pytest.fixture
def free_tcp_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(triton: TritonInstall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    repository = write_tiny_release(tmp_path_factory.mktemp("served") / "model_repository")
    with EmbeddedTriton(repository, [ENTRY]) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: EmbeddedTriton) -> Iterator[grpcclient.InferenceServerClient]:
    with grpcclient.InferenceServerClient(server.address) as connected:
        yield connected
