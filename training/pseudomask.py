"""Stage 1's CAMs written as pseudo-masks for stage 2 (thesis eq. 4.9). Uses image-level labels to gate; never opens a mask."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

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


def write_pseudo_masks(
    network: Classifier, samples: Sequence[PatchSample], task: TissueTask, folder: Path, cam: CamOptions
) -> list[PatchSample]:
    """Write one palette PNG per patch and return the samples with these as targets.

    Args:
        folder: made if absent; gets `<image stem>.png`, the confidence of eq. 4.10 beside it (`.npz`, uint8 (C, h, w)), and `provenance.json`.
            Further images of the same stem, from other folders, get a number behind it.
    """
    names = _file_names([sample.image for sample in samples])
    folder.mkdir(parents=True, exist_ok=True)
    loader = DataLoader(PatchDataset(samples, task, augmentation=None, seed=0), batch_size=16)
    targets: list[PatchSample] = []
    network.eval()
    for batch in loader:
        masks, confidences = pseudo_masks(network, batch, task, cam)
        for labels, confidence in zip(masks.numpy().astype(np.uint8), confidences.numpy(), strict=True):
            sample = samples[len(targets)]
            path = folder / f"{names[len(targets)]}.png"
            write_palette_png(path, labels, task)
            levels = np.rint(confidence * 255).astype(np.uint8)
            np.savez_compressed(path.with_suffix(".npz"), confidence=levels)
            targets.append(PatchSample(sample.image, sample.labels, path, path.with_suffix(".npz")))
    method = {
        "equation": "4.9",
        "encoder": network.config.encoder,
        "stages": network.config.stages,
        "gate": "image-level labels",
        "cam": dataclasses.asdict(cam),
    }
    (folder / "provenance.json").write_text(json.dumps({"patches": len(targets), "task": task.name} | method, indent=2) + "\n")
    return targets


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
def pseudo_masks(network: Classifier, batch: dict[str, Tensor], task: TissueTask, cam_options: CamOptions) -> tuple[Tensor, Tensor]:
    """Eq. 4.9: int64 (B, H, W) of 0…C. Averaged CAMs, gated by the image label, upsampled, then the background cut out.
    And eq. 4.10: the share of each class, (B, C, h, w) on the CAM grid.
    """
    images = normalize(batch["image"], task.normalization.mean, task.normalization.std)
    class_maps, logits = averaged_class_maps(network, images, cam_options)
    cam = normalize_cam(class_maps)
    gated = gate_by_labels(cam, batch["labels"])
    full = functional.interpolate(gated, size=images.shape[2:], mode="bilinear", align_corners=False)
    labels = labels_from_cam(full, batch["labels"], logits)
    return labels * (~batch["background"]).long(), cam_confidence(gated)


def write_palette_png(path: Path, labels: npt.NDArray[np.uint8], task: TissueTask) -> None:
    """Labels 0…C as a palette PNG in the task's colors, background white."""
    image = Image.fromarray(labels)
    colors = [(255, 255, 255), *(tissue.color for tissue in task.classes)]
    image.putpalette([channel for color in colors for channel in color])
    image.save(path)
