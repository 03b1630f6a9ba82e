"""Which model a run uses and how it is reached, as a value that other processes can be given. Knows no slide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from serving.engines import RuntimeName
from serving.entry import entry_of

from .header_file import read_headers
from .replicas import ReplicatedModel
from .segment import SlideModel
from .served_model import ServedModel
from .tls_files import TlsFiles

EngineName = Literal["triton", "local", "local-onnxruntime", "local-openvino"]


@dataclass(frozen=True)
class ModelSource:
    """Where answers come from.

    Attributes:
        engine: a server; or this process, with what the embedded server would choose, or ONNX Runtime, or OpenVINO.
        model: as the user calls it.
        addresses: of the servers, "host:port" each, which serve the same; of no account for the others.
        repository: that a model in this process is read from.
        tls: for the server.
        headers: file of headers for every request to the server; a path, since what stands in it is a secret.
        shared_by: what opens the shared memory of one server on this machine, which is then used; None = tiles travel in messages. A secret.
    """

    engine: EngineName
    model: str
    addresses: tuple[str, ...]
    repository: Path
    tls: TlsFiles = field(default_factory=TlsFiles)
    shared_by: Mapping[str, str] | None = field(default=None, repr=False)
    headers: Path | None = None


@contextmanager
def open_model(source: ModelSource) -> Iterator[SlideModel]:
    """The model, until the block ends.

    Raises:
        ClientError: no server, not the model, or not the package that runs it here.
        ServingError: the repository lacks the model.
    """
    if source.engine == "triton":
        model = entry_of(source.model)
        headers = None if source.headers is None else read_headers(source.headers)
        with (
            ServedModel(source.addresses[0], model, source.tls, source.shared_by, headers)
            if len(source.addresses) == 1
            else ReplicatedModel(source.addresses, model, source.tls, headers)
        ) as client:
            yield client
    else:
        from .local_model import LocalModel  # ONNX Runtime and OpenVINO are wanted here alone

        runtimes: dict[str, RuntimeName] = {"local-onnxruntime": "onnxruntime", "local-openvino": "openvino"}
        yield LocalModel(source.repository, entry_of(source.model), runtimes.get(source.engine))
