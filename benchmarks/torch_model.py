"""A checkpoint's network as something that answers tiles, so that it is evaluated by the very code that segments slides. Imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from export.wrapper import CamNet, SegmentNet
from serving.contract import CAM, LABELS, PROBABILITIES, SCORES, Contract, Kind
from training.checkpoint import Checkpoint

from .errors import EvaluationError

Tag = TypeVar("Tag")
_OUTPUTS = {"segment": (LABELS, PROBABILITIES), "cam": (LABELS, CAM, SCORES)}


class TorchModel:
    """One network of a checkpoint behind the interface of a served model (`clients.pipeline.TileModel`), with the served graph's quantization.

    Raises:
        EvaluationError: the checkpoint has no network of that kind.
    """

    max_batch = 64

    def __init__(self, checkpoint: Checkpoint, kind: Kind) -> None:
        task = checkpoint.task
        if kind == "segment" and checkpoint.segment_network is not None:
            cell_px, wrapper = checkpoint.segment_cell_px, SegmentNet
            network: torch.nn.Module = checkpoint.segment_network
        elif kind == "cam" and checkpoint.cam_network is not None:
            cell_px, wrapper = checkpoint.cam_cell_px, CamNet  # type: ignore[assignment]
            network = checkpoint.cam_network
        else:
            raise EvaluationError(f"checkpoint of method {checkpoint.method!r}: expected a network of kind {kind!r}, it has none")
        self.contract = Contract(task, kind, checkpoint.method, cell_px, release="checkpoint", slide_model="checkpoint")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._net = wrapper(network, task.normalization, cell_px).to(self._device).eval()

    @torch.inference_mode()
    def answer(self, tiles: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """uint8 (n, tile_px, tile_px, 3) → the served outputs by name."""
        answers = self._net(torch.from_numpy(np.ascontiguousarray(tiles)).to(self._device))
        return {name: values.cpu().numpy() for name, values in zip(_OUTPUTS[self.contract.kind], answers, strict=True)}

    def stream(
        self, batches: Iterable[tuple[Tag, npt.NDArray[np.uint8]]], in_flight: int
    ) -> Iterator[tuple[Tag, dict[str, npt.NDArray[Any]]]]:
        """Answers one batch after the other; `in_flight` is for models elsewhere."""
        for tag, tiles in batches:
            yield tag, self.answer(tiles)
