"""The report of an evaluation: the scores and, for every image, what there is to see. Runs the model once more for heat maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from clients.overlay import draw_overlay
from clients.pipeline import TileModel
from serving.contract import TissueTask

from .errors import EvaluationError
from .evaluate_images import ModelEvaluation, TruthImage
from .gates import GateOptions, make_gate
from .predict import predict_evidence, predict_labels, to_label_scale, to_model_scale
from .report import Rgb, Row, heat_map, image_row, render_page


def write_report(
    path: Path,
    evaluation: ModelEvaluation,
    images: Iterable[TruthImage],
    model: TileModel,
    image_mpp: float,
    data: str,
    figures: Mapping[str, Rgb] | None = None,
    cam_model: TileModel | None = None,
) -> None:
    """Write the page.

    Args:
        images: those of the evaluation, in its order.
        data: what they are called on the page.
        figures: pictures by caption that are about all images.
        cam_model: gives the heat maps, and pseudo-masks as training has them: by the image labels that truth gives, for the eye alone.

    Raises:
        EvaluationError: the page cannot be written.
    """
    contract = model.contract
    rows = [Row("all images", figures)] if figures else []
    for image, result in zip(images, evaluation.images, strict=True):
        heat = {} if cam_model is None else _cam_pictures(image, cam_model, image_mpp, evaluation.task)
        rows.append(image_row(image.name, image.rgb, image.truth, result.labels, evaluation.task, heat))
    notes = {"model": f"{contract.method}, {contract.kind}, release {contract.release}", "data": f"{data}, {len(evaluation.images)} images"}
    scores = [evaluation.scores("masked"), evaluation.scores("unmasked")]
    page = render_page(f"{evaluation.task.name}: {contract.method} {contract.kind}", evaluation.task, scores, notes, rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"{path}: expected a place for the report that can be written to: {error}: give another --report") from error


def _cam_pictures(image: TruthImage, model: TileModel, image_mpp: float, task: TissueTask) -> dict[str, Rgb]:
    """Evidence of every class over the image, what the CAMs say alone, and with the true image labels of each tile."""
    evidence = predict_evidence(image.rgb, model, image_mpp)
    scaled = to_model_scale(image.rgb, image_mpp, task.mpp)
    # Cells may reach over the image's edge: crop to whole pixels before the map is brought to the image.
    cell_px = model.contract.cell_px
    full = evidence.repeat(cell_px, axis=1).repeat(cell_px, axis=2)[:, : scaled.shape[0], : scaled.shape[1]]
    pictures = {f"CAM {name}": heat_map(image.rgb, full[index]) for index, name in enumerate(task.class_names, start=1)}
    truth_m = to_label_scale(image.truth, image_mpp, task.mpp)
    for caption, gate in (("by CAMs alone", GateOptions()), ("pseudo-mask, by true image labels", GateOptions("oracle"))):
        labels = predict_labels(image.rgb, model, image_mpp, make_gate=partial(make_gate, gate, truth_m))
        pictures[caption] = draw_overlay(image.rgb, labels, task)
    return pictures
