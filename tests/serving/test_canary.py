"""How far a served value may be from the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.canary import FLOAT32, TOLERANCE, Tolerance, canary_contracts, compare, read_canary, read_tolerance
from serving.check import check_repository
from serving.contract import CAM, LABELS, PROBABILITIES, TILE
from serving.errors import CanaryError

from .tiny_image import IMAGE_ENTRY, IMAGE_RELEASE, add_image_entry
from .tiny_release import RELEASE, configs, contract

ZEROS = np.zeros((2, 50, 50), np.uint8)


def altered(count: int, value: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    changed = ZEROS.copy()
    changed.flat[:count] = value
    return changed


def test_labels_agree_on_nearly_every_pixel() -> None:
    compare("m", LABELS, ZEROS, altered(5, 3))  # 0.1 % of 5,000
    with pytest.raises(CanaryError, match=r"model 'm': .* LABELS expected to agree on 99\.9% of the elements, agrees on 99\.88%"):
        compare("m", LABELS, ZEROS, altered(6, 3))


def test_probabilities_are_within_one_level_everywhere() -> None:
    compare("m", PROBABILITIES, ZEROS, altered(5000, 1))
    with pytest.raises(CanaryError, match="differs by up to 2"):
        compare("m", PROBABILITIES, ZEROS, altered(1, 2))
    with pytest.raises(CanaryError, match="differs by up to 255"):  # uint8 arithmetic would wrap to 1
        compare("m", PROBABILITIES, ZEROS, altered(1, 255))


@pytest.mark.parametrize("wrong", [0.0011, -0.0011, np.nan, np.inf])
def test_floats_are_close(wrong: float) -> None:
    expected = np.zeros((1, 4, 7, 7), np.float32)
    served = expected.copy()
    served.flat[3] = 0.0009
    compare("m", CAM, expected, served)
    served.flat[3] = wrong
    with pytest.raises(CanaryError, match="CAM expected within"):
        compare("m", CAM, expected, served)


def test_shape_type_and_absence_are_faults() -> None:
    for served in (None, ZEROS[:1], ZEROS.astype(np.float32), np.zeros(0, np.uint8)):
        with pytest.raises(CanaryError, match=r"expected LABELS as uint8 \(2, 50, 50\), the server gave"):
            compare("m", LABELS, ZEROS, served)


def test_a_release_without_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "canary.npz"
    with pytest.raises(CanaryError, match="found none: export the model again"):
        read_canary(path)
    path.write_bytes(b"PK\x03\x04 half written")
    with pytest.raises(CanaryError, match="cannot read it"):
        read_canary(path)
    np.savez(path, LABELS=ZEROS)
    with pytest.raises(CanaryError, match="expected TILE and the outputs"):
        read_canary(path)


def test_each_release_is_asked_once() -> None:
    assert canary_contracts(configs()) == {RELEASE: contract()}


def test_the_images_of_a_release_are_asked_too(repository: Path) -> None:
    add_image_entry(repository)
    found = canary_contracts(check_repository(repository, [IMAGE_ENTRY]).values())
    assert {name: (asked.takes, asked.release) for name, asked in found.items()} == {
        RELEASE: ("tile", RELEASE),
        IMAGE_RELEASE: ("image", RELEASE),  # whose record it is
    }


def write_record(path: Path, **more: Any) -> None:
    arrays: dict[str, Any] = {TILE: ZEROS, LABELS: ZEROS, **more}
    np.savez(path, **arrays)


def test_a_record_says_how_precise_its_release_is(tmp_path: Path) -> None:
    path = tmp_path / "canary.npz"
    write_record(path)
    assert read_tolerance(path) == FLOAT32
    write_record(path, **{TOLERANCE: np.array([0.97, np.inf, 0.05])})
    assert read_tolerance(path) == Tolerance(0.97, np.inf, 0.05)
    assert set(read_canary(path)) == {TILE, LABELS}
    write_record(path, **{TOLERANCE: np.array([np.nan, 1, 1])})
    with pytest.raises(CanaryError, match="expected tolerance as three numbers"):
        read_tolerance(path)


def test_a_half_precise_release_is_judged_by_its_own_tolerance() -> None:
    half = Tolerance(0.995, 8, 0.05)
    compare("m", LABELS, ZEROS, altered(25, 3), half)  # 0.5 % of 5,000
    compare("m", PROBABILITIES, ZEROS, altered(5000, 8), half)
    floats = np.zeros((1, 3), np.float32)
    compare("m", CAM, floats, floats + np.float32(0.049), half)
    for name, expected, served in (
        (LABELS, ZEROS, altered(26, 3)),
        (PROBABILITIES, ZEROS, altered(1, 9)),
        (CAM, floats, floats + np.float32(0.051)),
    ):
        with pytest.raises(CanaryError, match="wrong values"):
            compare("m", name, expected, served, half)
