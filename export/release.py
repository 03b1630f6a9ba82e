"""Writes the model folders of one release, complete, into a folder that nobody serves. Knows no repository and no entry of callers."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

import serving
from serving.canary import CANARY_FILE
from serving.check import VERSION
from serving.contract import Kind, TissueTask
from serving.modelconfig import ONNX_FILE, PLAN_FILE, PYTHON_FILE, EnsembleConfig, ModelConfig, write_config

from .canary import canary_arrays
from .card import Metrics, write_cards
from .figures import write_reports
from .graphs import KindGraphs
from .layout import KindLayout, background_config, decode_config, kind_layout
from .targets import Target

RELEASE_FILE = "release.json"
PARITY_FILE = "parity.json"


@dataclass(frozen=True)
class Draft:
    """Everything a release is made of, before it has a number.

    Attributes:
        canary: uint8 (2, tile_px, tile_px, 3).
        provenance: plain values for `release.json`.
        target: what the models are to run on; None = wherever Triton is.
        metrics: for the card.
        plans: TensorRT engines of the networks, for a target that has them built beforehand; the graphs are published beside them.
    """

    task: TissueTask
    method: str
    graphs: tuple[KindGraphs, ...]
    canary: npt.NDArray[np.uint8]
    provenance: Mapping[str, Any]
    target: Target | None = None
    metrics: Metrics | None = None
    plans: Mapping[Kind, Path] = field(default_factory=dict)


def write_release(folder: Path, prefix: str, draft: Draft) -> tuple[str, ...]:
    """Write every model of the release; their names, with the frozen ensembles last."""
    layouts = [kind_layout(prefix, graphs.kind, draft.task, draft.method, graphs.cell_px, draft.target) for graphs in draft.graphs]
    models: list[str] = []
    digests, engines = {}, {}
    background = background_config(prefix, draft.task)
    if background is not None:
        models.append(_write_step(folder, background, "background.py", "background.py"))
    if any(layout.image is not None for layout in layouts):
        models.append(_write_step(folder, decode_config(prefix, draft.task), "decode.py", "image_file.py"))
    for layout, graphs in zip(layouts, draft.graphs, strict=True):
        for config, graph in ((layout.net, graphs.net), (layout.labels, graphs.labels)):
            if config is not None and graph is not None:
                digests[config.name] = _write_graph(folder, config, graph)
                models.append(config.name)
        if graphs.kind in draft.plans:
            engines[layout.net.name] = _write_plan(folder, layout.net, draft.plans[graphs.kind])
        models += [write_ensemble(folder, config) for config in (layout.slide, layout.image) if config is not None]
    models += [layout.frozen.name for layout in layouts]
    precision = {graphs.kind: graphs.precision for graphs in draft.graphs}
    notes = {"release": prefix, "models": models, "precision": precision, "sha256": digests, "engines": engines, **draft.provenance}
    for layout, graphs in zip(layouts, draft.graphs, strict=True):
        _write_frozen(folder, layout, graphs, draft, notes)
    write_cards(
        folder, models, [(layout.frozen, graphs) for layout, graphs in zip(layouts, draft.graphs, strict=True)], notes, draft.metrics
    )
    return tuple(models)


def write_ensemble(folder: Path, config: EnsembleConfig) -> str:
    """An ensemble's folder; git keeps no empty version folder and Triton 2.51 refuses an ensemble without one."""
    version = folder / config.name / VERSION
    version.mkdir(parents=True)
    (version / ".gitkeep").touch()
    write_config(folder / config.name, config)
    return config.name


def _write_frozen(folder: Path, layout: KindLayout, graphs: KindGraphs, draft: Draft, notes: Mapping[str, Any]) -> None:
    frozen = folder / write_ensemble(folder, layout.frozen)
    arrays: dict[str, Any] = dict(canary_arrays(graphs, draft.task.background, draft.canary))
    np.savez_compressed(frozen / CANARY_FILE, **arrays)
    (frozen / PARITY_FILE).write_text(write_reports(graphs.reports), encoding="utf-8")
    (frozen / RELEASE_FILE).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")


def _write_graph(folder: Path, config: ModelConfig, graph: onnx.ModelProto) -> str:
    """The model's folder; the SHA-256 of its file."""
    version = folder / config.name / VERSION
    version.mkdir(parents=True)
    content = graph.SerializeToString(deterministic=True)
    (version / ONNX_FILE).write_bytes(content)
    write_config(folder / config.name, config)
    return hashlib.sha256(content).hexdigest()


def _write_plan(folder: Path, config: ModelConfig, plan: Path) -> str:
    """The engine beside its graph, which `--check` reads; the engine's own name, which says what it runs on."""
    shutil.copyfile(plan, folder / config.name / VERSION / PLAN_FILE)
    return plan.name


def _write_step(folder: Path, config: ModelConfig, step: str, imported: str) -> str:
    """A python step and a copy of what it imports, so that a release keeps its rules and needs no histoserve beside the server."""
    version = folder / config.name / VERSION
    version.mkdir(parents=True)
    sources = Path(serving.__file__).parent
    shutil.copyfile(sources / "steps" / step, version / PYTHON_FILE)
    package = version / serving.__name__
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copyfile(sources / imported, package / imported)
    write_config(folder / config.name, config)
    return config.name
