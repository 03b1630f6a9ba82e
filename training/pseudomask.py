"""Class maps written as pseudo-masks for stage 2 (thesis eq. 4.9). Uses image-level labels to gate; never opens a mask."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from serving.contract import TissueTask

from .cam import gate_by_labels, labels_from_cam, normalize_cam
from .cam_kinds import CamOptions, averaged_class_maps
from .classifier import Classifier
from .encoder import normalize
from .noise_reduced import cam_confidence
from .patch_dataset import PatchDataset, PatchSample

# A batch of `PatchDataset` → maps of the classes on any grid, 0…1 (B, C, h, w), and scores (B, C) that order the classes where no map is active.
ScoredMaps = Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]


def write_pseudo_masks(
    maps: ScoredMaps, samples: Sequence[PatchSample], task: TissueTask, folder: Path, method: Mapping[str, Any]
) -> list[PatchSample]:
    """Write one palette PNG per patch and return the samples with these as targets.

    Args:
        folder: made if absent; gets `<image stem>.png`, the confidence of eq. 4.10 beside it (`.npz`, uint8 (C, h, w)), and `provenance.json`.
            Further images of the same stem, from other folders, get a number behind it.
        method: how the maps are made, for provenance.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    targets = with_pseudo_masks(samples, folder)
    loader = DataLoader(PatchDataset(samples, task, augmentation=None, seed=0), batch_size=16)
    written = iter(targets)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for batch in loader:
        masks, confidences = pseudo_masks(maps, {name: values.to(device) for name, values in batch.items()})
        for labels, confidence in zip(masks.cpu().numpy().astype(np.uint8), confidences.cpu().numpy(), strict=True):
            target = next(written)
            assert target.target is not None
            assert target.confidence is not None
            write_palette_png(target.target, labels, task)
            np.savez_compressed(target.confidence, confidence=np.rint(confidence * 255).astype(np.uint8))
    told = {"patches": len(targets), "task": task.name, "equation": "4.9", "gate": "image-level labels", **method}
    (folder / "provenance.json").write_text(json.dumps(told, indent=2) + "\n")
    return targets


def with_pseudo_masks(samples: Sequence[PatchSample], folder: Path) -> list[PatchSample]:
    """The samples with the targets that `write_pseudo_masks` writes into that folder for them."""
    names = _file_names([sample.image for sample in samples])
    return [
        PatchSample(sample.image, sample.labels, folder / f"{name}.png", folder / f"{name}.npz")
        for sample, name in zip(samples, names, strict=True)
    ]


def cam_maps(network: Classifier, task: TissueTask, options: CamOptions) -> ScoredMaps:
    """CAMs of a classifier, averaged over views and normalized, and its logits. It is put into evaluation mode and follows the batch's device."""

    def maps(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        images = normalize(batch["image"], task.normalization.mean, task.normalization.std)
        class_maps, logits = averaged_class_maps(network.to(images.device).eval(), images, options)
        return normalize_cam(class_maps), logits

    return maps


def _file_names(images: Sequence[Path]) -> list[str]:
    """A name for each image that no other one has: its stem, or stem and number."""
    names: list[str] = []
    stems = {image.stem for image in images}
    taken: set[str] = set()
    for image in images:
        numbered = (f"{image.stem}-{number}" for number in itertools.count(2))
        name = image.stem if image.stem not in taken else next(name for name in numbered if name not in taken | stems)
        taken.add(name)
        names.append(name)
    return names


@torch.no_grad()
def pseudo_masks(maps: ScoredMaps, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Eq. 4.9: int64 (B, H, W) of 0…C. The maps, gated by the image label, upsampled, then the background cut out.
    And eq. 4.10: the share of each class, (B, C, h, w) on the maps' grid.
    """
    cam, scores = maps(batch)
    gated = gate_by_labels(cam, batch["labels"])
    full = functional.interpolate(gated, size=batch["image"].shape[2:], mode="bilinear", align_corners=False)
    labels = labels_from_cam(full, batch["labels"], scores)
    return labels * (~batch["background"]).long(), cam_confidence(gated)


def write_palette_png(path: Path, labels: npt.NDArray[np.uint8], task: TissueTask) -> None:
    """Labels 0…C as a palette PNG in the task's colors, background white."""
    image = Image.fromarray(labels)
    colors = [(255, 255, 255), *(tissue.color for tissue in task.classes)]
    image.putpalette([channel for color in colors for channel in color])
    image.save(path)
