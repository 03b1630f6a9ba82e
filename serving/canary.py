"""Asks a ready server for the tiles whose answers the release was exported with, as pixels and as image files, and compares values. Starts nothing."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from .check import parse_contract
from .contract import IMAGE, PROBABILITIES, TILE, Contract
from .errors import CanaryError
from .modelconfig import Config, EnsembleConfig
from .png_file import encode_png

CANARY_FILE = "canary.npz"  # beside the frozen ensemble's config.pbtxt: TILE and every output
TOLERANCE = "tolerance"  # in the same file: how far a served value may be away
_REMEDY = "export the model again, or run make setup again where only the server's environment changed"

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Tolerance:
    """How far another engine's answer may be from the record; the defaults are float32's, and those of records that say nothing.

    Attributes:
        agreement: share of the LABELS that must be equal.
        levels: of 255, for PROBABILITIES: another engine may round the other way.
        absolute: for CAM and SCORES.
    """

    agreement: float = 0.999
    levels: float = 1
    absolute: float = 1e-3


FLOAT32 = Tolerance()


def canary_contracts(configs: Iterable[Config]) -> dict[str, Contract]:
    """The served ensembles to ask, each with its contract: the frozen one of each release, then those that take images, so that a wrong
    network is not told as a wrong image. The entries and the slide models hold the same steps (see `check`)."""
    contracts = ((config.name, parse_contract(config)) for config in configs if isinstance(config, EnsembleConfig))
    frozen = [contract for name, contract in contracts if contract is not None and contract.frozen == name]
    return {contract.frozen: contract for contract in sorted(frozen, key=lambda contract: contract.takes == "image")}


def run_canary(client: grpcclient.InferenceServerClient, repository: Path, contract: Contract) -> None:
    """Compare a served frozen ensemble with its release's record. One that takes images is sent the same tiles as PNG files.

    Raises:
        CanaryError: no record, no answer, or wrong values.
    """
    path = repository / contract.release / CANARY_FILE
    expected, tolerance = read_canary(path), read_tolerance(path)
    tiles, outputs = expected.pop(TILE), tuple(expected)
    asked = ask if contract.takes == "tile" else ask_files
    served = asked(client, contract.frozen, tiles, outputs)
    for name, values in expected.items():
        compare(contract.frozen, name, values, served[name], tolerance)


def read_canary(path: Path) -> Arrays:
    """TILE and the expected outputs."""
    arrays = {name: values for name, values in _read(path).items() if name != TOLERANCE}
    if TILE not in arrays or len(arrays) < 2:
        raise CanaryError(f"{path}: expected {TILE} and the outputs, got {sorted(arrays)}: export the model again")
    return arrays


def read_tolerance(path: Path) -> Tolerance:
    """What the record says about its own precision."""
    values = _read(path).get(TOLERANCE)
    if values is None:
        return FLOAT32
    if values.shape != (3,) or not np.isfinite(values[0]) or np.isnan(values).any():
        raise CanaryError(f"{path}: expected {TOLERANCE} as three numbers, got {values.tolist()}: export the model again")
    return Tolerance(*(float(value) for value in values))


def _read(path: Path) -> Arrays:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError:
        raise CanaryError(f"{path}: expected the record that an export writes, found none: export the model again") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CanaryError(f"{path}: expected the record that an export writes, cannot read it ({error}): export the model again") from error


def ask(client: grpcclient.InferenceServerClient, model: str, tiles: npt.NDArray[Any], outputs: tuple[str, ...]) -> Arrays:
    """One request for the named outputs."""
    given = grpcclient.InferInput(TILE, list(tiles.shape), np_to_triton_dtype(tiles.dtype))
    given.set_data_from_numpy(tiles)
    return _answer(client, model, given, outputs)


def ask_files(client: grpcclient.InferenceServerClient, model: str, tiles: npt.NDArray[Any], outputs: tuple[str, ...]) -> Arrays:
    """One request that sends each tile as a PNG file."""
    given = grpcclient.InferInput(IMAGE, [len(tiles), 1], "BYTES")
    given.set_data_from_numpy(np.array([[encode_png(tile)] for tile in tiles], dtype=np.object_))
    return _answer(client, model, given, outputs)


def _answer(client: grpcclient.InferenceServerClient, model: str, given: grpcclient.InferInput, outputs: tuple[str, ...]) -> Arrays:
    wanted = [grpcclient.InferRequestedOutput(name) for name in outputs]
    try:
        answer = client.infer(model, [given], outputs=wanted)
    except InferenceServerException as error:
        raise CanaryError(f"model {model!r}: the canary's request failed: {error.message()}: {_REMEDY}") from error
    return {name: answer.as_numpy(name) for name in outputs}


def compare(model: str, name: str, expected: npt.NDArray[Any], served: npt.NDArray[Any] | None, tolerance: Tolerance = FLOAT32) -> None:
    """One output against its record.

    Raises:
        CanaryError: another shape or type, or values apart by more than engines differ.
    """
    if served is None or (served.shape, served.dtype) != (expected.shape, expected.dtype):
        got = "nothing" if served is None else f"{served.dtype} {served.shape}"
        raise CanaryError(f"model {model!r}: canary expected {name} as {expected.dtype} {expected.shape}, the server gave {got}: {_REMEDY}")
    is_float = expected.dtype.kind == "f"
    fault = _float_fault(expected, served, tolerance) if is_float else _level_fault(name, expected, served, tolerance)
    if fault:
        raise CanaryError(f"model {model!r}: the server answers wrong values: {name} {fault}: {_REMEDY}")


def _float_fault(expected: npt.NDArray[Any], served: npt.NDArray[Any], tolerance: Tolerance) -> str:
    worst = float(np.max(np.abs(expected.astype(np.float64) - served.astype(np.float64))))
    return "" if worst <= tolerance.absolute else f"expected within {tolerance.absolute:g}, differs by up to {worst:.4g}"  # NaN is a fault


def _level_fault(name: str, expected: npt.NDArray[Any], served: npt.NDArray[Any], tolerance: Tolerance) -> str:
    """LABELS must be equal nearly everywhere; PROBABILITIES close everywhere, since rounding is not the network."""
    apart = np.abs(expected.astype(np.int64) - served.astype(np.int64))
    if name == PROBABILITIES:
        return "" if apart.max() <= tolerance.levels else f"expected within {tolerance.levels:g} of 255, differs by up to {apart.max()}"
    agreement = float(np.mean(apart == 0))
    fault = f"expected to agree on {tolerance.agreement:.1%} of the elements, agrees on {agreement:.2%}"
    return "" if agreement >= tolerance.agreement else fault
