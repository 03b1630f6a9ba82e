"""The whole way on generated tissue, through our own commands: generate, train, export, serve, segment, evaluate. Reuses what is there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from clients.omezarr import LabelImage, read_label
from clients.slide import open_slide
from export.repository import releases
from serving.background import background_mask
from serving.embedded import EmbeddedTriton
from serving.tasks import get_task
from training.patches import read_folder, write_patches
from training.slides import truth_path, write_slide

from .color_baseline import learn_colors
from .evaluate import Evaluation, evaluate_labels, evaluate_mask, read_truth
from .own_command import run_histoserve

TASK = get_task("demo")
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class DemoConfig:
    """The whole way on generated tissue; prints how well the served model segments a held-out slide."""

    output: Path = Path("demo")
    """Folder for patches, slide, checkpoint, masks and result.json."""
    repository: Path = Path("model_repository")
    """Model repository that gets the release."""
    recipe: Path = ROOT / "training" / "recipes" / "demo.toml"
    """Training recipe."""
    patches: int = 800
    """Generated training patches with image-level labels."""
    patch_seed: int = 1
    slide_seed: int = 1001
    """Never a seed of a training patch."""
    slide_width_px: int = 4096
    slide_height_px: int = 3072


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured and where things lie."""

    evaluations: dict[str, Evaluation]
    result: Path
    masks: dict[str, Path]
    overlays: dict[str, Path]


def run_demo(config: DemoConfig) -> DemoResult:
    """Do what is not done yet and evaluate.

    Raises:
        CommandError: a command failed; its own message stands above.
    """
    started_s = time.monotonic()
    patches, slide = generate(config)
    checkpoint = train(config, patches)
    publish(config, checkpoint)
    masks = segment(config, slide, checkpoint)
    evaluations = {stage: evaluate_mask(store, truth_path(slide)) for stage, store in masks.items()}
    evaluations |= evaluate_colors(patches, slide, read_label(masks["stage2"]))
    result = config.output / "result.json"
    content = {stage: _figures(evaluation) for stage, evaluation in evaluations.items()}
    content["run"] = {"seconds": round(time.monotonic() - started_s, 1), "slide": slide.name, "patches": config.patches}
    result.write_text(json.dumps(content, indent=2) + "\n")
    overlays = {stage: store.with_name(f"{slide.stem}.overlay.png") for stage, store in masks.items()}
    return DemoResult(evaluations, result, masks, overlays)


def generate(config: DemoConfig) -> tuple[Path, Path]:
    """Training patches and the held-out slide."""
    patches = config.output / f"patches-{config.patches}-{config.patch_seed}"
    slide = config.output / f"slide-{config.slide_seed}-{config.slide_width_px}x{config.slide_height_px}.tiff"
    config.output.mkdir(parents=True, exist_ok=True)
    if not patches.exists():
        _say(f"generating {config.patches} patches with image-level labels")
        write_patches(patches, config.patches, config.patch_seed)
    if not (slide.exists() and truth_path(slide).exists()):
        _say(f"generating a held-out slide of {config.slide_width_px}×{config.slide_height_px} px")
        write_slide(slide, config.slide_seed, config.slide_width_px, config.slide_height_px, TASK.mpp)
    return patches, slide


def train(config: DemoConfig, patches: Path) -> Path:
    """A checkpoint for this recipe and these patches; trained anew where either changed."""
    fingerprint = hashlib.sha256(config.recipe.read_bytes() + patches.name.encode()).hexdigest()[:12]
    folder = config.output / f"training-{fingerprint}"
    checkpoint = folder / "checkpoint.pt"
    if not checkpoint.exists():
        _say("training PSCL from image-level labels (two stages)")
        run_histoserve("train", f"@{config.recipe}", "--data", str(patches), "--output", str(folder))
    return checkpoint


def publish(config: DemoConfig, checkpoint: Path) -> None:
    """A release of this checkpoint, unless the current one is."""
    published = releases(config.repository, TASK.name)
    if not published or published[-1].checkpoint_sha256 != hashlib.sha256(checkpoint.read_bytes()).hexdigest():
        _say("exporting both networks to ONNX, checking parity, publishing a release")
        run_histoserve("export", str(checkpoint), "--repository", str(config.repository), "--name", TASK.name)


def segment(config: DemoConfig, slide: Path, checkpoint: Path) -> dict[str, Path]:
    """Masks of both stages by the served model: stage 1 = its CAMs, stage 2 = the segmenter."""
    folders = {"stage1": config.output / "masks-cam", "stage2": config.output / "masks"}
    models = {"stage1": f"{TASK.name}_cam", "stage2": f"{TASK.name}_segment"}
    marker = config.output / "masks" / f"{checkpoint.parent.name}.{slide.stem}"
    stores = {stage: folder / f"{slide.stem}.ome.zarr" for stage, folder in folders.items()}
    if marker.exists() and all(store.exists() for store in stores.values()):
        return stores
    _say("starting the embedded Triton and segmenting the slide")
    with EmbeddedTriton(config.repository, list(models.values())) as server:
        for stage, folder in folders.items():
            arguments = ["--model", models[stage], "--server", server.address, "--overwrite"]
            run_histoserve("segment", str(slide), "--output", str(folder), *arguments)
    marker.touch()
    return stores


def evaluate_colors(patches: Path, slide: Path, like: LabelImage) -> dict[str, Evaluation]:
    """What a color lookup reaches on the slide, though it learns from the patches' pixel truth; background by the task's rule."""
    records = read_folder(patches, TASK.class_names)[:200]
    pairs = [(np.asarray(Image.open(record.image)), np.asarray(Image.open(record.mask))) for record in records if record.mask]
    rgb = _read_whole(slide)
    rule = TASK.background
    background = background_mask(rgb, rule.gray_above, rule.min_size_px) if rule else np.zeros(rgb.shape[:2], dtype=bool)
    truth = read_truth(truth_path(slide), like)
    evaluations = {}
    for name, window_px in (("color_pixel", 1), ("color_33px", 33)):
        labels = learn_colors(pairs, len(TASK.classes), window_px).predict(rgb)
        evaluations[name] = evaluate_labels(dataclasses.replace(like, labels=np.where(background, np.uint8(0), labels)), truth)
    return evaluations


def _read_whole(slide: Path) -> npt.NDArray[np.uint8]:
    """The generated slide's level 0; it is small by construction."""
    with open_slide(slide) as reader:
        return reader.read(0, 0, 0, reader.width_l0, reader.height_l0)


def _figures(evaluation: Evaluation) -> dict[str, object]:
    scores = evaluation.unmasked
    iou = dict(zip(evaluation.class_names, (round(value, 4) for value in scores.iou), strict=True))
    return {"miou": round(scores.miou, 4), "protocol": scores.protocol, "iou": iou, "miou_masked": round(evaluation.masked.miou, 4)}


def _say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


def as_lines(result: DemoResult, repository: Path) -> Sequence[str]:
    """Where everything lies."""
    return [
        f"mask              {result.masks['stage2']}",
        f"overlay           {result.overlays['stage2']}",
        f"mask of stage 1   {result.masks['stage1']}",
        f"model repository  {repository}",
        f"figures           {result.result}",
    ]
