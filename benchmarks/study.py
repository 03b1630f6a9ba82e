"""One table for a method on annotated crops: folds × seeds × variants, through our own commands. Resumable: what is there is not done again."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
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

from .errors import EvaluationError
from .own_command import ask_histoserve, run_histoserve
from .study_plan import PRETRAINED, ROWS, VARIANTS, Row


@dataclass(frozen=True)
class StudyConfig:
    """Train and evaluate every variant on every fold and seed; a table with intervals. Run again, it goes on where it stopped."""

    data: Path
    """Annotated images."""
    output: Path
    """Folder for patches, runs and study.json."""
    recipe: Path
    """Training recipe, `<set>_<method>.toml`; its steps are the budget of each network. Variants of other methods take the recipes beside it."""
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
    variants: tuple[str, ...] = ("classification", "pscl", PRETRAINED, "pistoseg", "arml", "supervised")
    """Of `study_plan.VARIANTS`. The pre-trained one starts from an encoder that saw the fold's training patches without their labels."""
    pretrain_data: tuple[Path, ...] = ()
    """Folders of further images to pre-train on."""
    pretrain_slides: tuple[Path, ...] = ()
    """Whole slides to pre-train on."""
    pretrain_steps: int = 600

    def __post_init__(self) -> None:
        if unknown := set(self.variants) - set(VARIANTS):
            raise EvaluationError(f"--variants: expected some of {', '.join(VARIANTS)}, got {', '.join(sorted(unknown))}")


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
        for name, row in _rows(config).items():
            if row.variant == run.variant:
                _say(f"{name}, fold {run.fold}, seed {run.seed}: {_evaluate(config, run, row):.3f}")
    task = get_task(config.task)
    rows = {name: confusions(config, row) for name, row in _rows(config).items()}
    pseudo = {variant: pseudo_mask_confusion(config, variant, task).tolist() for variant in config.variants if _has_pseudo_masks(variant)}
    content = {
        "task": config.task,
        "classes": list(task.class_names),
        "config": {key: _plain(value) for key, value in vars(config).items() if key != "output"},
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "torch": importlib.metadata.version("torch")},
        "images": image_names(config),
        "training": {variant: _training(config, variant) for variant in config.variants},
        "rows": {row: values.tolist() for row, values in rows.items()},
        "pseudo_masks": pseudo,
    }
    (config.output / "study.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
    return content


def runs(config: StudyConfig) -> Iterator[Run]:
    """Seed by seed, so that an unfinished study already has whole folds."""
    for seed in config.seeds:
        for fold in range(config.folds):
            for variant in config.variants:
                yield Run(variant, fold, seed)


def confusions(config: StudyConfig, row: Row) -> npt.NDArray[np.int64]:
    """(seeds, images, C + 1, C + 1); the images of all folds, each judged by the run that did not see it."""
    per_seed = []
    for seed in config.seeds:
        images: dict[str, Any] = {}
        for fold in range(config.folds):
            images |= _evaluation(config, Run(row.variant, fold, seed), row)["images"]
        per_seed.append([images[name] for name in sorted(images)])
    return np.array(per_seed, dtype=np.int64)


def image_names(config: StudyConfig) -> list[str]:
    """Of the evaluated images, in the order of the confusions."""
    row, seed = next(iter(_rows(config).values())), config.seeds[0]
    return sorted({name for fold in range(config.folds) for name in _evaluation(config, Run(row.variant, fold, seed), row)["images"]})


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
    variant = VARIANTS[run.variant]
    recipe = config.recipe if variant.method is None else _recipe_of(config.recipe, variant.method)
    flags = [*variant.flags, "--task", config.task, "--tile-px", str(config.tile_px), "--seed", str(run.seed)]
    if config.tile_px != config.patch_px:
        flags += ["--mpp", str(get_task(config.task).mpp * config.patch_px / config.tile_px)]
    if run.variant == PRETRAINED:
        flags += ["--weights", str(_pretrain(config, run.fold))]
    if variant.like is not None:
        _take_over(_folder(config, Run(variant.like, run.fold, run.seed)), folder)
    run_histoserve("train", f"@{recipe}", "--data", str(patches), "--output", str(folder), *flags)


def _take_over(other: Path, folder: Path) -> None:
    """Copy another run's stages, all but the last, which are reused where their settings are the same."""
    for done in sorted(other.glob("*/stage.json")):
        if done.parent.name != "stage2" and not (folder / done.parent.name).exists():
            shutil.copytree(done.parent, folder / done.parent.name)


def _recipe_of(recipe: Path, method: str) -> Path:
    """The recipe of another method, named after the same set."""
    other = recipe.with_name(f"{recipe.stem.rpartition('_')[0]}_{method}.toml")
    if not other.is_file():
        raise EvaluationError(
            f"--recipe {recipe}: expected {other.name} beside it for variant {method!r}, found none: leave it out of --variants"
        )
    return other


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
        slides = ["--slides", *map(str, config.pretrain_slides)] if config.pretrain_slides else []
        images = [str(_patches(config, fold) / "images"), *map(str, config.pretrain_data)]
        run_histoserve("pretrain", "--data", *images, *slides, "--output", str(folder), *flags)
    return weights


def _cut(config: StudyConfig, fold: int) -> None:
    flags = ["--data", str(config.data), "--data-format", config.data_format, "--split", config.split, "--task", config.task]
    flags += ["--patch-px", str(config.patch_px), "--stride-px", str(config.stride_px), "--tile-px", str(config.tile_px)]
    flags += ["--folds", str(config.folds), "--fold", str(fold)] if config.folds > 1 else []
    flags += ["--max-patches", str(config.max_patches)] if config.max_patches else []
    run_histoserve("patches", *flags, "--output", str(_patches(config, fold)))


def _evaluate(config: StudyConfig, run: Run, row: Row) -> float:
    """Evaluate a run if that was not done; its masked mIoU."""
    path = _folder(config, run) / f"{row.name}.json"
    if not path.exists():
        flags = ["--checkpoint", str(_folder(config, run) / "checkpoint.pt"), "--kind", row.kind, "--data", str(config.data), *row.flags]
        flags += ["--data-format", config.data_format, "--split", config.test_split or config.split, "--protocol", "masked", "--json"]
        flags += [] if config.test_split else ["--only", str(_patches(config, run.fold) / "split.json")]
        path.write_text(ask_histoserve("evaluate", *flags), encoding="utf-8")
    return float(json.loads(path.read_text(encoding="utf-8"))["miou"])


def _evaluation(config: StudyConfig, run: Run, row: Row) -> Any:
    return json.loads((_folder(config, run) / f"{row.name}.json").read_text(encoding="utf-8"))


def _training(config: StudyConfig, variant: str) -> dict[str, float]:
    """What a variant costs: seconds of training, mean of its runs, and parameters of the network that segments."""
    from training.checkpoint import load  # torch only where it is needed

    checkpoints = [load(_folder(config, run) / "checkpoint.pt") for run in runs(config) if run.variant == variant]
    network = checkpoints[0].segment_network
    parameters = sum(values.numel() for values in network.parameters()) if network is not None else 0
    return {"seconds": float(np.mean([checkpoint.provenance["seconds"] for checkpoint in checkpoints])), "parameters": parameters}


def _rows(config: StudyConfig) -> dict[str, Row]:
    return {name: row for name, row in ROWS.items() if row.variant in config.variants}


def _patches(config: StudyConfig, fold: int) -> Path:
    return config.output / f"patches-fold{fold}"


def _folder(config: StudyConfig, run: Run) -> Path:
    return config.output / run.name


def _has_pseudo_masks(variant: str) -> bool:
    return variant != "supervised"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.name
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _say(text: str) -> None:
    print(f"study: {text}", file=sys.stderr, flush=True)
