"""Requests that no client of ours makes, from bare gRPC stubs to the real embedded Triton: each gets the error that API.md names, and the next good one its answer."""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import grpc
import hypothesis.strategies as st
import numpy as np
import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest

from clients import api_page
from serving.contract import BACKGROUND, IMAGE, LABELS, PROBABILITIES, TILE
from serving.embedded import EmbeddedTriton
from serving.modelconfig import ModelConfig, read_config, write_config
from serving.processes import server_of, stubs_of
from tests.serving import tiny_release as tiny
from tests.serving.tiny_image import DECODE, IMAGE_ENTRY, add_image_entry, png

from .bare import answer_of, elements, files_request, make_request, open_channel, right_answer, stub_of, tiles_request

pytestmark = pytest.mark.triton
few = settings(max_examples=8, derandomize=True, database=None, deadline=None)
many = settings(max_examples=60, derandomize=True, database=None, deadline=None)

SIDES = (tiny.TILE_PX, tiny.TILE_PX, 3)
TILE_BYTES = tiny.TILE_PX * tiny.TILE_PX * 3
DATATYPES = ("BOOL", "UINT16", "UINT64", "INT8", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES", "RGB", "uint8", "")
TILES = tiny.random_tiles(3, seed=11)
FILE = png(TILES[0])
names = st.text("abcXYZ_019-é/.\n '", max_size=30)
wrong_names = names.filter(lambda name: name not in (TILE, IMAGE, LABELS, PROBABILITIES))


def tile(**other: object) -> ModelInferRequest:
    return tiles_request(TILES[:1], **other)


def zeros(shape: tuple[int, ...], datatype: str = "UINT8") -> ModelInferRequest:
    size = int(np.prod(shape)) * {"FP32": 4}.get(datatype, 1)
    return tile(shape=shape, datatype=datatype, payload=bytes(size))


def without_payload() -> ModelInferRequest:
    request = tile()
    del request.raw_input_contents[:]
    return request


def in_contents(request: ModelInferRequest, values: Iterable[int]) -> ModelInferRequest:
    """The elements of a tile, one by one, beside what is there."""
    request.inputs[0].contents.uint_contents.extend(values)
    return request


def of_inputs(*inputs: str) -> ModelInferRequest:
    payloads = [TILES[:1].tobytes()] * len(inputs)
    return make_request(tiny.ENTRY, [(name, "UINT8", (1, *SIDES)) for name in inputs], payloads)


def with_side(axis: int, side: int) -> list[int]:
    return [side if place == axis else right for place, right in enumerate((1, *SIDES))]


wrong_shapes = (
    st.one_of(
        st.tuples(st.just(1), st.integers(1, 64), st.integers(1, 64), st.integers(1, 4)),
        st.lists(st.integers(1, 33), min_size=1, max_size=3).map(tuple),
        st.just((1, 1, *SIDES)),
    )
    .filter(lambda shape: shape[1:] != SIDES)
    .map(zeros)
) | st.tuples(st.integers(1, 3), st.integers(-(2**63), -2)).map(lambda pair: tile(shape=with_side(*pair)))
wrong_sizes = st.one_of(
    st.integers(0, 4 * TILE_BYTES)
    .filter(lambda size: size != 2 * TILE_BYTES)
    .map(lambda size: tile(shape=(2, *SIDES), payload=bytes(size))),
    st.sampled_from([tile(shape=(0, *SIDES), payload=b""), tile(payload=bytes(2**26))]),
)
BAD_FILES = [
    b"",
    b"no image",
    FILE[:-20],
    FILE[:40],
    png(TILES[0][:, :16]),
    FILE + bytes(2**21),
    FILE[:16] + b"\0\0\xff\xff" * 2 + FILE[24:],
]
bad_files = st.tuples(st.integers(0, 2), st.sampled_from(BAD_FILES) | st.binary(max_size=300)).map(
    lambda pair: files_request([*[FILE] * pair[0], pair[1], FILE])
)
beyond = st.integers(len(FILE) + 1, 2**32 - 1)

# By the first column of the page's second table.
WRONG: dict[str, st.SearchStrategy[ModelInferRequest]] = {
    "the datatype": st.sampled_from(DATATYPES).map(lambda datatype: zeros((1, *SIDES), datatype)),
    "a side, or the number of axes": wrong_shapes,
    "no axes at all": st.sampled_from([tile(shape=()), files_request([FILE], shape=())]),
    "a side of -1": st.integers(1, 3).map(lambda axis: tile(shape=with_side(axis, -1))),
    "n above the limit": st.integers(65, 130).map(lambda count: zeros((count, *SIDES)))
    | st.integers(65, 200).map(lambda count: files_request([FILE] * count)),
    "more or fewer bytes than the shape says, n = 0 without bytes": wrong_sizes,
    "no bytes: `raw_input_contents` and `contents` both empty": st.just(without_payload()),
    "bytes in `raw_input_contents` and `contents`": st.just(in_contents(tile(), TILES[:1].tobytes())),
    "an input's name": wrong_names.map(of_inputs),
    "an input that is missing, or one too many": st.just(of_inputs()) | wrong_names.map(lambda name: of_inputs(TILE, name)),
    "an input twice": st.just(of_inputs(TILE, TILE)),
    "an output's name": wrong_names.map(lambda name: tile(outputs=(LABELS, name)))
    | st.just(tile(outputs=("NET_PROBABILITIES",)))
    | st.just(tile(outputs=("BACKGROUND",))),
    "the model's name": wrong_names.map(lambda name: tile(model=name)),
    "a version that is not there": st.integers(2, 2**40).map(lambda version: tile(version=str(version))),
    "a version that is no number": st.text("abc-_é ", min_size=1, max_size=5).map(lambda version: tile(version=version)),
    "BYTES: a length that goes beyond the payload": beyond.map(
        lambda size: files_request([FILE], payload=size.to_bytes(4, "little") + FILE)
    ),
    "BYTES: a rest of one to three bytes": st.binary(min_size=1, max_size=3).map(lambda rest: files_request([FILE], payload=rest)),
    "BYTES: more or fewer elements than n": st.integers(0, 6)
    .filter(lambda count: count != 3)
    .map(lambda count: files_request([FILE] * count, shape=(3, 1))),
    "IMAGE: a file that cannot be taken": bad_files,
}


def documented() -> dict[str, tuple[str, re.Pattern[str]]]:
    """What is wrong → the status and the words that the page promises; … stands for anything."""
    page = api_page.PAGE.read_text()
    (table,) = re.findall(r"\| what is wrong \|.*?\n\n", page, re.DOTALL)
    rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in table.strip().splitlines()[2:]]
    return {wrong: (status, re.compile(".*".join(map(re.escape, re.split(r"\s*…\s*", words))), re.DOTALL)) for wrong, status, words in rows}


@dataclasses.dataclass(frozen=True)
class Outside:
    """A server as a stranger sees it, and the processes behind it."""

    server: EmbeddedTriton
    stub: service_pb2_grpc.GRPCInferenceServiceStub
    processes: tuple[object, ...]

    def answer(self, request: ModelInferRequest) -> dict[str, tuple[tuple[int, ...], bytes]]:
        return answer_of(self.stub.ModelInfer(request))

    def try_decode(self, file: bytes) -> tuple[tuple[int, ...], bytes] | grpc.RpcError:
        """The pixels of one file, as the decode step has them, or its error."""
        try:
            return self.answer(files_request([file], model=DECODE, outputs=(TILE,)))[TILE]
        except grpc.RpcError as error:
            return error

    def require_refused(self, request: ModelInferRequest, status: str, words: re.Pattern[str]) -> None:
        with pytest.raises(grpc.RpcError) as raised:
            self.answer(request)
        assert raised.value.code().name == status, raised.value.details()
        assert words.search(raised.value.details() or ""), raised.value.details()

    def require_well(self) -> None:
        """Ready, and right on tiles and on files."""
        assert self.stub.ServerReady(service_pb2.ServerReadyRequest()).ready
        assert self.stub.ModelReady(service_pb2.ModelReadyRequest(name=tiny.ENTRY)).ready
        assert self.answer(tiles_request(TILES)) == right_answer(TILES)
        assert self.answer(files_request([FILE])) == right_answer(TILES[:1])

    def require_untouched(self) -> None:
        """No process behind it has ended."""
        assert self.server.restarts == ()
        assert processes_of(self.server) == self.processes


def processes_of(server: EmbeddedTriton) -> tuple[object, ...]:
    triton = server_of(server.pid)
    assert triton is not None
    return (triton, *sorted(stubs_of(triton.pid), key=lambda stub: stub.pid))


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    repository = add_image_entry(tiny.write_tiny_release(tmp_path_factory.mktemp("outside") / "model_repository"))
    net = read_config(repository / tiny.NET)
    assert isinstance(net, ModelConfig)
    write_config(repository / tiny.NET, dataclasses.replace(net, queue_delay_us=0))  # hundreds of requests, one after the other
    with EmbeddedTriton(repository, [tiny.ENTRY, IMAGE_ENTRY]) as server, open_channel(server.address) as channel:
        yield Outside(server, stub_of(channel), processes_of(server))


def test_the_page_has_a_row_for_each_wrong_request() -> None:
    assert set(documented()) == set(WRONG)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_request_gets_the_documented_error_and_the_next_good_one_its_answer(outside: Outside, wrong: str) -> None:
    status, words = documented()[wrong]

    @few
    @given(WRONG[wrong])
    def refused(request: ModelInferRequest) -> None:
        outside.require_refused(request, status, words)
        outside.require_well()

    refused()
    outside.require_untouched()


def test_any_request_of_tiles_is_answered_rightly_or_refused(outside: Outside) -> None:
    """Datatype, n, sides and payload drawn each for itself: answered exactly where all fit."""
    sides = st.sampled_from([SIDES, SIDES, SIDES, SIDES[:2], (*SIDES, 1), (31, 32, 3), (3, 32, 32)])
    batches = st.sampled_from([1, 2, 3, 64, 65, 1000])

    @many
    @given(
        st.sampled_from(["UINT8", "UINT8", "UINT8", "INT8", "FP32"]),
        batches,
        sides,
        st.sampled_from([0, 0, 0, -1, 1, TILE_BYTES]),
        st.integers(0, 99),
    )
    def answered(datatype: str, count: int, sides: tuple[int, ...], extra: int, seed: int) -> None:
        tiles = tiny.random_tiles(count, seed)
        request = tiles_request(
            tiles, datatype=datatype, shape=(count, *sides), payload=(tiles.tobytes() + bytes(TILE_BYTES))[: tiles.nbytes + extra]
        )
        if (datatype, sides, extra) == ("UINT8", SIDES, 0) and count <= 64:
            assert outside.answer(request) == right_answer(tiles)
        else:
            outside.require_refused(request, "INVALID_ARGUMENT", re.compile(f"'{TILE}'|batch-size"))

    answered()
    outside.require_well()
    outside.require_untouched()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_damaged_file_is_told_or_is_a_picture_all_the_same(outside: Outside, format: str) -> None:
    """PNG has checksums: there a picture that is answered is the one that was sent."""
    buffer = BytesIO()
    Image.fromarray(TILES[0]).save(buffer, format)
    file = buffer.getvalue()

    @many
    @given(st.lists(st.tuples(st.integers(0, len(file) - 1), st.integers(1, 255)), max_size=4), st.integers(1, len(file)))
    def told(flips: list[tuple[int, int]], end: int) -> None:
        damaged = bytearray(file[: end if end % 2 else len(file)])
        for place, bits in flips:
            damaged[place % len(damaged)] ^= bits
        found = outside.try_decode(bytes(damaged))
        if isinstance(found, grpc.RpcError):
            assert found.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert str(found.details()).startswith("decode step: image 1 of 1: expected ")
        else:
            assert found[0] == (1, *SIDES)
            assert format != "PNG" or found[1] == TILES[0].tobytes()

    told()
    outside.require_well()
    outside.require_untouched()


@pytest.mark.parametrize("count", [0, 2**32, 2**32 + 2, -(2**63)])
def test_what_triton_takes_without_a_word_does_no_harm(outside: Outside, count: int) -> None:
    """n as the page says of 2.51: modulo 2³², and of 0 the answer for one tile without its axis."""
    tiles = TILES[: max(1, count % 2**32)]
    answer, right = outside.answer(tiles_request(tiles, shape=(count, *SIDES))), right_answer(tiles)
    shapes = {name: shape if count % 2**32 else shape[1:] for name, (shape, _) in right.items()}
    assert answer == {name: (shapes[name], payload) for name, (_, payload) in right.items()}
    outside.require_well()


def test_the_other_things_that_triton_takes(outside: Outside) -> None:
    more = tile()
    more.raw_input_contents.append(b"left aside")
    wrapped = in_contents(without_payload(), (256 + value for value in TILES[:1].tobytes()))
    for request in (more, wrapped, tile(outputs=(LABELS, LABELS, PROBABILITIES))):
        assert outside.answer(request) == right_answer(TILES[:1])


def test_the_request_of_the_grpcurl_example(outside: Outside) -> None:
    """As gRPC's own JSON mapping reads it; grpcurl itself is not at hand."""
    (told,) = re.findall(r"ModelInfer <<END\n(.*?)\nEND\n", api_page.PAGE.read_text(), re.DOTALL)
    told = told.replace("default_segment_image", IMAGE_ENTRY).replace("$(base64 -w0 tile.png)", base64.b64encode(FILE).decode())
    assert outside.answer(json_format.Parse(told, ModelInferRequest())) == {LABELS: right_answer(TILES[:1])[LABELS]}


def test_the_steps_refuse_what_has_lost_its_axis(outside: Outside) -> None:
    """A step is no entry, yet anyone may call it: of n = 0 it once took the rows of one tile for tiles."""
    for request in (
        tiles_request(TILES[:1], model=tiny.RULE_STEP, shape=(0, *SIDES), outputs=(BACKGROUND,)),
        files_request([FILE], model=DECODE, shape=(0, 1), outputs=(TILE,)),
    ):
        outside.require_refused(request, "INVALID_ARGUMENT", re.compile(r"expected (TILE|IMAGE) of shape \(n, .*n at least 1, got \("))
    outside.require_well()


def test_strangers_at_the_same_time_fail_alone(outside: Outside) -> None:
    """Right and wrong requests of eight callers in turn.

    The graph fails behind the slide model, in one batch with the entry's tiles: in an ensemble of two first steps 2.51 may keep the request (`serving/README.md`).
    """
    red = TILES[:1].copy()
    red[..., 0] = tiny.MAX_RED + 1
    wrong = [tile(datatype="FP32"), files_request([b"no image"]), tile(outputs=("NOTHING",)), tiles_request(red, model=tiny.SLIDE)]

    def call(number: int) -> bool:
        if number % 2:
            with pytest.raises(grpc.RpcError):
                outside.answer(wrong[number // 2 % len(wrong)])
        return outside.answer(tiles_request(TILES)) == right_answer(TILES)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(80)))
    outside.require_untouched()


def test_elements_stand_behind_their_lengths() -> None:
    assert elements([b"abc", b""]) == b"\x03\0\0\0abc\0\0\0\0"
