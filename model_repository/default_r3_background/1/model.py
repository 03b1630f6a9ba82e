"""The served background step: `serving.background` behind Triton's Python backend. Export copies this file into the release as `1/model.py`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # only in Triton's own environment

from serving.background import background_mask


class TritonPythonModel:
    """One instance; Triton calls the two methods. The rule's two numbers are the model's parameters."""

    def initialize(self, args: dict[str, str]) -> None:
        refuse_numpy_2()
        config = json.loads(args["model_config"])
        self.gray_above = parse_parameter(config, "gray_above")
        self.min_size_px = parse_parameter(config, "min_size_px")

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        """One request's BACKGROUND; an error becomes this request's own answer, so that its neighbors are not failed with it."""
        try:
            tiles = pb_utils.get_input_tensor_by_name(request, "TILE").as_numpy()
            if tiles.ndim != 4:  # Triton 2.51 takes the axis away from a request of B = 0 that holds a tile all the same
                told = f"background rule: expected TILE of shape (n, H, W, 3), n at least 1, got {tiles.shape}: say how many tiles are sent"
                return pb_utils.InferenceResponse(error=pb_utils.TritonError(told, pb_utils.TritonError.INVALID_ARG))
            return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("BACKGROUND", self.masks(tiles))])
        except Exception as error:  # noqa: BLE001 (whatever it is, it becomes the answer)
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"background rule: {error}"))

    def masks(self, tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 (B, H, W, 3) → uint8 (B, H, W), 1 = background."""
        return np.stack([background_mask(tile, self.gray_above, self.min_size_px) for tile in tiles]).astype(np.uint8)


def parse_parameter(config: dict[str, Any], name: str) -> int:
    try:
        return int(config["parameters"][name]["string_value"])
    except (KeyError, ValueError) as error:
        raise pb_utils.TritonModelException(
            f"model {config['name']!r}: expected the whole number {name} in the parameters, got {config.get('parameters')}: export the model again"
        ) from error


def refuse_numpy_2() -> None:
    """numpy 2 in the stub of Triton 2.51 hands over wrong values without an error (measured: zeros, outputs of 0 bytes)."""
    if int(np.__version__.split(".")[0]) >= 2:
        raise pb_utils.TritonModelException(
            f"numpy {np.__version__} in the server's environment: its tensors would arrive silently wrong; expected numpy < 2: make setup"
        )
