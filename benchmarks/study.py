"""One table for a method on annotated crops: folds × seeds × variants, through our own commands. Resumable: what is there is not done again."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.contract import TissueTask
from serving.tasks import get_task
from training.datasets.catalog import DataFormat
from training.datasets.image_file import read_indices
from training.metrics import confusion_matrix

from .own_command import ask_histoserve, run_histoserve

PRETRAINED = "pretrained"
# Variant: flags of `histoserve train` beside the recipe's.
VARIANTS: dict[str, tuple[str, ...]] = {
    "classification": ("--pscl.weight", "0"),
    "pscl": (),
    PRETRAINED: (),
    "supervised": ("--supervised",),
}
# What is evaluated of each variant: row of the table → (variant, network).
ROWS: dict[str, tuple[str, str]] = {
    "classification, CAM": ("classification", "cam"),
    "classification, stage 2": ("classification", "segment"),
    "PSCL, CAM": ("pscl", "cam"),
    "PSCL, stage 2": ("pscl", "segment"),
    "pre-trained + PSCL, CAM": (PRETRAINED, "cam"),
    "pre-trained + PSCL, stage 2": (PRETRAINED, "segment"),
    "supervised": ("supervised", "segment"),
}


@dataclass(frozen=True)
class StudyConfig:
    """Train and evaluate every variant on every fold and seed; a table with intervals. Run again, it goes on where it stopped."""

    data: Path
    """Annotated images."""
    output: Path
    """Folder for patches, runs and study.json."""
    recipe: Path
    """Training recipe of all variants; its steps are the budget of each run."""
    data_format: DataFormat = "crops"
    split: str = "all"
    """The data set's own split that patches are cut from, and with folds also evaluated on."""
    test_split: str | None = None
    """The data set's own split to evaluate on, instead of held-out folds."""
    folds: int = 3
    """1 where the data set has a test split of its own."""
    seeds: tuple[int, ...] = (0, 1)
    patch_px: int = 128
    stride_px: int = 64
    tile_px: int = 128
    max_patches: int | None = None
    task: str = "wsss4luad"
    pretrain: bool = True
    """Also pre-train an encoder without labels on the training patches of each fold; its row starts from that."""
    pretrain_steps: int = 600


@dataclass(frozen=True)
class Run:
    """One training run."""

    variant: str
    fold: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant}-fold{self.fold}-seed{self.seed}"


def run_study(config: StudyConfig) -> dict[str, Any]:
    """Do what is not done yet and return what `study.json` holds.

    Raises:
        CommandError: a command failed.
    """
    for run in runs(config):
        _train(config, run)
        for row, (variant, kind) in ROWS.items():
            if variant == run.variant:
                _say(f"{row}, fold {run.fold}, seed {run.seed}: {_evaluate(config, run, kind):.3f}")
    task = get_task(config.task)
    rows = {row: confusions(config, variant, kind) for row, (variant, kind) in ROWS.items() if _is_wanted(config, variant)}
    pseudo = {variant: pseudo_mask_confusion(config, variant, task).tolist() for variant in VARIANTS if _has_pseudo_masks(config, variant)}
    content = {
        "task": config.task,
        "classes": list(task.class_names),
        "config": {key: _plain(value) for key, value in vars(config).items() if key != "output"},
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "torch": importlib.metadata.version("torch")},
        "images": image_names(config),
        "rows": {row: values.tolist() for row, values in rows.items()},
        "pseudo_masks": pseudo,
    }
    (config.output / "study.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
    return content


def runs(config: StudyConfig) -> Iterator[Run]:
    """Seed by seed, so that an unfinished study already has whole folds."""
    for seed in config.seeds:
        for fold in range(config.folds):
            for variant in VARIANTS:
                if _is_wanted(config, variant):
                    yield Run(variant, fold, seed)


def confusions(config: StudyConfig, variant: str, kind: str) -> npt.NDArray[np.int64]:
    """(seeds, images, C + 1, C + 1); the images of all folds, each judged by the run that did not see it."""
    per_seed = []
    for seed in config.seeds:
        images: dict[str, Any] = {}
        for fold in range(config.folds):
            images |= _evaluation(config, Run(variant, fold, seed), kind)["images"]
        per_seed.append([images[name] for name in sorted(images)])
    return np.array(per_seed, dtype=np.int64)


def image_names(config: StudyConfig) -> list[str]:
    """Of the evaluated images, in the order of the confusions."""
    first = next(runs(config)).variant
    kind = next(kind for variant, kind in ROWS.values() if variant == first)
    return sorted({name for fold in range(config.folds) for name in _evaluation(config, Run(first, fold, config.seeds[0]), kind)["images"]})


def pseudo_mask_confusion(config: StudyConfig, variant: str, task: TissueTask) -> npt.NDArray[np.int64]:
    """Stage 1's pseudo-masks against the masks of the training patches: what stage 2 has to learn from. (C + 1, C + 1)"""
    total = np.zeros((len(task.classes) + 1,) * 2, dtype=np.int64)
    for run in runs(config):
        if run.variant == variant:
            for path in sorted((_folder(config, run) / "pseudo_masks").glob("*.png")):
                truth = read_indices(_patches(config, run.fold) / "masks" / path.name)
                total += confusion_matrix(truth, read_indices(path), len(task.classes))
    return total


def _train(config: StudyConfig, run: Run) -> None:
    patches, folder = _patches(config, run.fold), _folder(config, run)
    if not patches.exists():
        _cut(config, run.fold)
    if (folder / "checkpoint.pt").exists():
        return
    _say(f"training {run.name}")
    flags = [*VARIANTS[run.variant], "--task", config.task, "--tile-px", str(config.tile_px), "--seed", str(run.seed)]
    if config.tile_px != config.patch_px:
        flags += ["--mpp", str(get_task(config.task).mpp * config.patch_px / config.tile_px)]
    if run.variant == PRETRAINED:
        flags += ["--weights", str(_pretrain(config, run.fold))]
    run_histoserve("train", f"@{config.recipe}", "--data", str(patches), "--output", str(folder), *flags)


def _pretrain(config: StudyConfig, fold: int) -> Path:
    """An encoder that saw the fold's training patches without their labels."""
    folder = config.output / f"pretrained-fold{fold}"
    weights = folder / "encoder.pt"
    if not weights.exists():
        _say(f"pre-training without labels, fold {fold}")
        recipe = tomllib.loads(config.recipe.read_text(encoding="utf-8"))
        stage = max(*recipe["cam_stages"], *recipe["decoder_stages"])
        flags = ["--encoder", recipe["encoder"], "--stage", str(stage), "--task", config.task, "--tile-px", str(config.tile_px)]
        flags += ["--schedule.batch", "16", "--schedule.steps", str(config.pretrain_steps), "--schedule.learning-rate", "0.001"]
        run_histoserve("pretrain", "--data", str(_patches(config, fold) / "images"), "--output", str(folder), *flags)
    return weights


def _cut(config: StudyConfig, fold: int) -> None:
    flags = ["--data", str(config.data), "--data-format", config.data_format, "--split", config.split, "--task", config.task]
    flags += ["--patch-px", str(config.patch_px), "--stride-px", str(config.stride_px), "--tile-px", str(config.tile_px)]
    flags += ["--folds", str(config.folds), "--fold", str(fold)] if config.folds > 1 else []
    flags += ["--max-patches", str(config.max_patches)] if config.max_patches else []
    run_histoserve("patches", *flags, "--output", str(_patches(config, fold)))


def _evaluate(config: StudyConfig, run: Run, kind: str) -> float:
    """Evaluate a run if that was not done; its masked mIoU."""
    path = _folder(config, run) / f"{kind}.json"
    if not path.exists():
        flags = ["--checkpoint", str(_folder(config, run) / "checkpoint.pt"), "--kind", kind, "--data", str(config.data)]
        flags += ["--data-format", config.data_format, "--split", config.test_split or config.split, "--protocol", "masked", "--json"]
        flags += [] if config.test_split else ["--only", str(_patches(config, run.fold) / "split.json")]
        path.write_text(ask_histoserve("evaluate", *flags), encoding="utf-8")
    return float(json.loads(path.read_text(encoding="utf-8"))["miou"])


def _evaluation(config: StudyConfig, run: Run, kind: str) -> Any:
    return json.loads((_folder(config, run) / f"{kind}.json").read_text(encoding="utf-8"))


def _patches(config: StudyConfig, fold: int) -> Path:
    return config.output / f"patches-fold{fold}"


def _folder(config: StudyConfig, run: Run) -> Path:
    return config.output / run.name


def _is_wanted(config: StudyConfig, variant: str) -> bool:
    return variant != PRETRAINED or config.pretrain


def _has_pseudo_masks(config: StudyConfig, variant: str) -> bool:
    return variant != "supervised" and _is_wanted(config, variant)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.name
    return list(value) if isinstance(value, tuple) else value


def _say(text: str) -> None:
    print(f"study: {text}", file=sys.stderr, flush=True)
