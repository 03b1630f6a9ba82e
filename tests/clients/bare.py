"""Requests as the protocol has them, made of tritonclient's generated stubs alone: what a caller in any language sends. Knows nothing of `clients`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import grpc
from tritonclient.grpc import service_pb2_grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from serving.contract import IMAGE, LABELS, PROBABILITIES, TILE
from tests.serving import tiny_release as tiny
from tests.serving.tiny_image import IMAGE_ENTRY

OUTPUTS = (LABELS, PROBABILITIES)
_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def open_channel(address: str) -> grpc.Channel:
    return grpc.insecure_channel(address, options=_UNLIMITED)


def stub_of(channel: grpc.Channel) -> service_pb2_grpc.GRPCInferenceServiceStub:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def make_request(
    model: str,
    inputs: Sequence[tuple[str, str, Sequence[int]]],
    payloads: Sequence[bytes],
    outputs: Sequence[str] = OUTPUTS,
    version: str = "",
) -> ModelInferRequest:
    """Whatever is asked for, right or wrong; the inputs are names, datatypes and shapes."""
    request = ModelInferRequest(model_name=model, model_version=version, raw_input_contents=payloads)
    for name, datatype, shape in inputs:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def tiles_request(tiles: tiny.Tiles, **other: object) -> ModelInferRequest:
    """A right one, but for what `other` puts in its place: datatype, shape, payload, outputs, model, version."""
    given: dict[str, object] = {"datatype": "UINT8", "shape": tiles.shape, "payload": tiles.tobytes(), "model": tiny.ENTRY} | other
    return _one_input(TILE, given)


def files_request(files: Sequence[bytes], **other: object) -> ModelInferRequest:
    """As `tiles_request`, of image files."""
    given: dict[str, object] = {"datatype": "BYTES", "shape": (len(files), 1), "payload": elements(files), "model": IMAGE_ENTRY} | other
    return _one_input(IMAGE, given)


def _one_input(name: str, given: Mapping[str, object]) -> ModelInferRequest:
    rest = {key: given[key] for key in ("outputs", "version") if key in given}
    return make_request(given["model"], [(name, given["datatype"], given["shape"])], [given["payload"]], **rest)  # type: ignore[arg-type, list-item]


def elements(files: Sequence[bytes]) -> bytes:
    """BYTES: each element behind its length, four bytes, the lowest first."""
    return b"".join(len(file).to_bytes(4, "little") + file for file in files)


def answer_of(response: ModelInferResponse) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """Name → shape and bytes, as they came over the wire."""
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {output.name: (tuple(output.shape), payload) for output, payload in pairs}


def right_answer(tiles: tiny.Tiles) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """What the miniature release says of tiles, in the form of `answer_of`."""
    return {name: (values.shape, values.tobytes()) for name, values in tiny.expected(tiles).items()}
