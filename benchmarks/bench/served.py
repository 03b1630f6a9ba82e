"""The server that is measured: one that runs already, or the embedded Triton started for it. Knows no load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from clients.endpoint import Endpoint, Entry
from clients.served_model import CHANNEL_ARGS, reason_of
from serving.check import check_repository
from serving.embedded import EmbeddedTriton
from serving.entry import entry_of
from serving.errors import ServingError, StatusError
from serving.status import Snapshot
from serving.status_socket import read_status, socket_path

from .errors import BenchError
from .footprint import pid_at

_LOCAL = ("127.0.0.1", "localhost")
_ASK_S = 10.0


@dataclass(frozen=True)
class Served:
    """A model on a server, and what we may know of that server.

    Attributes:
        entry: of raw tiles.
        image_entry: of files; None = it serves none.
        priority_levels: the most that a step of the model knows; 0 = none.
        version: of Triton.
        pid: of the server's process, its children count too; None = on another machine, or another user's.
        snapshot: counters of its models; None = it was not started by `histoserve serve` of this user on this machine.
        admin_headers: of the embedded server.
    """

    address: str
    entry: Entry
    image_entry: Entry | None
    priority_levels: int
    version: str
    pid: int | None = None
    snapshot: Callable[[], Snapshot] | None = None
    admin_headers: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def open_served(model: str, address: str | None, repository: Path) -> Iterator[Served]:
    """The model on the server at the address; None = on the embedded Triton, started here and gone after the block.

    Raises:
        BenchError: the server does not have it.
        ServingError: the embedded server does not start.
    """
    name = entry_of(model) if not model.endswith("_slide") else model
    with ExitStack() as stack:
        if address is not None:
            yield _found(address, name)
            return
        wanted = [name, *([image] if (image := f"{name}_image") and _is_published(repository, image) else [])]
        server = stack.enter_context(EmbeddedTriton(repository, wanted))
        yield _ask(server.address, name, pid=server.pid, snapshot=server.snapshot, admin_headers=server.admin_headers)


def _is_published(repository: Path, name: str) -> bool:
    try:
        check_repository(repository, [name])
    except ServingError:
        return False
    return True


def _found(address: str, name: str) -> Served:
    """What can be known of a server that somebody started."""
    host, _, port = address.rpartition(":")
    if host not in _LOCAL or not port.isdigit():
        return _ask(address, name)
    path = socket_path(host, int(port))

    def snapshot() -> Snapshot:
        return read_status(path)

    try:
        snapshot()
    except StatusError:
        return _ask(address, name, pid=_pid_at(int(port)))
    return _ask(address, name, pid=_pid_at(int(port)), snapshot=snapshot)


def _pid_at(port: int) -> int | None:
    try:
        return pid_at(port)
    except psutil.AccessDenied:
        return None


def _ask(
    address: str,
    name: str,
    *,
    pid: int | None = None,
    snapshot: Callable[[], Snapshot] | None = None,
    admin_headers: Mapping[str, str] | None = None,
) -> Served:
    endpoint = Endpoint(address, None, {})
    client = grpcclient.InferenceServerClient(address, channel_args=CHANNEL_ARGS)
    try:
        entry = endpoint.describe(name)
        has_image = bool(client.is_model_ready(f"{name}_image", client_timeout=_ASK_S))
        image = endpoint.describe(f"{name}_image") if has_image else None
        version = client.get_server_metadata(client_timeout=_ASK_S).version
        levels = _priority_levels(client, name)
    except InferenceServerException as error:
        raise BenchError(
            f"{address}: model {name!r}: cannot be asked for: {reason_of(error)}: check --server and the model's name"
        ) from error
    finally:
        client.close()
        endpoint.close()
    return Served(address, entry, image, levels, version, pid, snapshot, dict(admin_headers or {}))


def _priority_levels(client: grpcclient.InferenceServerClient, name: str) -> int:
    """The most that a step of it knows; Triton hands a request's priority on to the steps of an ensemble."""
    config = client.get_model_config(name, client_timeout=_ASK_S).config
    steps = [step.model_name for step in config.ensemble_scheduling.step]
    if not steps:
        return int(config.dynamic_batching.priority_levels)
    return max(_priority_levels(client, step) for step in steps)
