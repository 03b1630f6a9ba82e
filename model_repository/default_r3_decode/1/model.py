"""The served decode step: `serving.image_file` behind Triton's Python backend. Export copies this file into the release as `1/model.py`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # only in Triton's own environment

from serving.image_file import ImageError, decode_tile


class TritonPythonModel:
    """One instance; Triton calls the two methods. The tile's side is the model's parameter."""

    def initialize(self, args: dict[str, str]) -> None:
        refuse_numpy_2()
        config = json.loads(args["model_config"])
        try:
            self.tile_px = int(config["parameters"]["tile_px"]["string_value"])
        except (KeyError, ValueError) as error:
            raise pb_utils.TritonModelException(
                f"model {config['name']!r}: expected the whole number tile_px in the parameters, got {config.get('parameters')}: "
                "export the model again"
            ) from error

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        """One request's TILE; an error becomes this request's own answer, so that its neighbors are not failed with it."""
        try:
            files = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()
            return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("TILE", self.tiles(files))])
        except ImageError as error:  # the caller's to mend
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"decode step: {error}", pb_utils.TritonError.INVALID_ARG))
        except Exception as error:  # noqa: BLE001 (whatever it is, it becomes the answer)
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"decode step: {error}"))

    def tiles(self, files: npt.NDArray[np.object_]) -> npt.NDArray[np.uint8]:
        """Bytes (B, 1) → uint8 (B, tile_px, tile_px, 3)."""
        if files.ndim != 2:  # Triton 2.51 takes the axis away from a request of B = 0 that holds a file all the same
            raise ImageError(f"expected IMAGE of shape (n, 1), n at least 1, got {files.shape}: say how many files are sent")
        tiles = np.empty((len(files), self.tile_px, self.tile_px, 3), np.uint8)
        for index, (data,) in enumerate(files):
            try:
                tiles[index] = decode_tile(bytes(data), self.tile_px)
            except ImageError as error:
                raise ImageError(f"image {index + 1} of {len(files)}: {error}") from error
        return tiles


def refuse_numpy_2() -> None:
    """numpy 2 in the stub of Triton 2.51 hands over wrong values without an error (measured: zeros, outputs of 0 bytes)."""
    if int(np.__version__.split(".")[0]) >= 2:
        raise pb_utils.TritonModelException(
            f"numpy {np.__version__} in the server's environment: its tensors would arrive silently wrong; expected numpy < 2: make setup"
        )
