"""Image files to the real embedded Triton: every subset of the outputs, strangers in a batch, and reasons."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from PIL import Image
from tritonclient.utils import InferenceServerException

from serving.contract import IMAGE, LABELS, PROBABILITIES, TILE, Contract
from serving.doctor import examine_running
from serving.embedded import EmbeddedTriton
from serving.errors import CanaryError
from serving.findings import Question
from serving.triton_install import TritonInstall

from . import tiny_release as tiny
from .tiny_image import DECODE, IMAGE_ENTRY, IMAGE_RELEASE, add_image_entry, ask_images, png

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("triton")]


@pytest.fixture(scope="module")
def image_server(triton: TritonInstall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    repository = add_image_entry(tiny.write_tiny_release(tmp_path_factory.mktemp("served") / "model_repository"))
    with EmbeddedTriton(repository, [IMAGE_ENTRY]) as started:
        yield started


@pytest.fixture(scope="module")
def caller(image_server: EmbeddedTriton) -> Iterator[grpcclient.InferenceServerClient]:
    with grpcclient.InferenceServerClient(image_server.address) as connected:
        yield connected


@pytest.mark.parametrize("model", [IMAGE_ENTRY, IMAGE_RELEASE])
@pytest.mark.parametrize("outputs", [(LABELS, PROBABILITIES), (LABELS,), (PROBABILITIES,)], ids="+".join)
def test_each_subset_of_the_outputs(caller: grpcclient.InferenceServerClient, model: str, outputs: tuple[str, ...]) -> None:
    tiles = tiny.random_tiles(3, seed=1)
    served = ask_images(caller, model, [png(tile) for tile in tiles], outputs)
    for name in outputs:
        np.testing.assert_array_equal(served[name], tiny.expected(tiles)[name])


def test_the_contract_says_what_it_takes(caller: grpcclient.InferenceServerClient) -> None:
    config = caller.get_model_config(IMAGE_ENTRY).config
    contract = Contract.from_parameters({key: value.string_value for key, value in config.parameters.items()})
    assert (contract.kind, contract.takes, contract.release, contract.frozen) == ("segment", "image", tiny.RELEASE, IMAGE_RELEASE)
    assert [tensor.name for tensor in config.input] == [IMAGE]


def test_the_decoded_jpeg_is_pillows(caller: grpcclient.InferenceServerClient) -> None:
    file = BytesIO()
    Image.fromarray(tiny.random_tiles(1, seed=2)[0]).save(file, "JPEG", quality=80)
    with Image.open(file) as image:
        np.testing.assert_array_equal(ask_images(caller, DECODE, [file.getvalue()], (TILE,))[TILE][0], np.array(image))


def test_a_bad_image_fails_alone_with_its_reason(image_server: EmbeddedTriton, caller: grpcclient.InferenceServerClient) -> None:
    """Both callers' requests go through the same steps at a time; the next one finds a step that lives."""
    good, bad = tiny.random_tiles(2, seed=3), [png(tiny.random_tiles(1, seed=4)[0]), b"no image"]
    for _ in range(3):
        barrier = threading.Barrier(2)

        def call(files: list[bytes], barrier: threading.Barrier = barrier) -> tiny.Tiles:
            barrier.wait()
            return ask_images(caller, IMAGE_ENTRY, files, (LABELS,))[LABELS]

        with ThreadPoolExecutor(2) as pool:
            good_answer, bad_answer = pool.submit(call, [png(tile) for tile in good]), pool.submit(call, bad)
            np.testing.assert_array_equal(good_answer.result(), tiny.expected(good)[LABELS])
            with pytest.raises(
                InferenceServerException, match=r"decode step: image 2 of 2: expected the bytes of a JPEG, PNG or WebP file"
            ):
                bad_answer.result()


def test_another_size_and_a_cut_file_are_told(caller: grpcclient.InferenceServerClient) -> None:
    tile = tiny.random_tiles(1, seed=5)[0]
    with pytest.raises(InferenceServerException, match="expected 32 x 32 px, got 16 x 32: cut tiles to the model's size"):
        ask_images(caller, IMAGE_ENTRY, [png(tile[:, :16])], (LABELS,))
    with pytest.raises(InferenceServerException, match="damaged or cut off"):
        ask_images(caller, IMAGE_ENTRY, [png(tile)[:-20]], (LABELS,))


def test_a_failing_network_gives_its_reason_through_the_ensemble(caller: grpcclient.InferenceServerClient) -> None:
    bad = tiny.random_tiles(1, seed=6)
    bad[0, 0, 0, 0] = tiny.MAX_RED + 1
    with pytest.raises(InferenceServerException, match=r"(ONNX Runtime|OpenVINO): "):
        ask_images(caller, IMAGE_ENTRY, [png(bad[0])], (LABELS,))


def test_a_decode_step_that_answers_wrong_pixels_is_found_at_the_start(repository: Path) -> None:
    step = add_image_entry(repository) / DECODE / "1" / "model.py"
    step.write_text(step.read_text().replace("= decode_tile(bytes(data), self.tile_px)", "= decode_tile(bytes(data), self.tile_px)[::-1]"))
    with pytest.raises(CanaryError, match=f"'{IMAGE_RELEASE}': the server answers wrong values"), EmbeddedTriton(repository, [IMAGE_ENTRY]):
        pass


def test_a_probe_asks_for_images_too(image_server: EmbeddedTriton) -> None:
    question = Question(image_server.repository, (IMAGE_ENTRY,), int(image_server.address.rpartition(":")[2]))
    *_, answer = examine_running(question)
    assert (answer.status, answer.found.partition("; ")[2]) == ("OK", f"right values from {tiny.RELEASE}, {IMAGE_RELEASE}")


def test_an_older_release_beside_it_is_served_without(repository: Path) -> None:
    with EmbeddedTriton(repository, [tiny.ENTRY]) as server, grpcclient.InferenceServerClient(server.address) as client:
        assert not client.is_model_ready(IMAGE_ENTRY)
