"""A whole release in miniature, written by hand: the shapes and names of a real one, arithmetic whose outputs encode their inputs instead of networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving.background import background_mask
from serving.canary import CANARY_FILE
from serving.contract import BACKGROUND, LABELS, PROBABILITIES, TILE, BackgroundRule, Contract
from serving.modelconfig import ONNX_FILE, PYTHON_FILE, Config, EnsembleConfig, ModelConfig, Step, Tensor, replaced, write_config
from serving.tasks import get_task
from serving.triton_install import SERVING_FOLDER

TILE_PX, CELL_PX, CHANNELS = 32, 4, 5
RULE = BackgroundRule(gray_above=200, min_size_px=6)
MAX_RED = 199  # a redder tile is an error of every engine, whatever is asked of the network: in a batch a bad neighbor

ENTRY, RELEASE, SLIDE = "tiny_segment", "tiny_r1_segment", "tiny_r1_segment_slide"
NET, RULE_STEP, COMBINE = "tiny_r1_segment_net", "tiny_r1_background", "tiny_r1_segment_labels"

Tiles = npt.NDArray[np.uint8]

_tile = Tensor(TILE, "TYPE_UINT8", (TILE_PX, TILE_PX, 3))
_labels = Tensor(LABELS, "TYPE_UINT8", (TILE_PX, TILE_PX))
_levels = Tensor(PROBABILITIES, "TYPE_UINT8", (CHANNELS, TILE_PX // CELL_PX, TILE_PX // CELL_PX))
_background = Tensor(BACKGROUND, "TYPE_UINT8", (TILE_PX, TILE_PX))


def contract() -> Contract:
    task = dataclasses.replace(get_task("demo"), tile_px=TILE_PX, background=RULE)
    return Contract(task, "segment", "by hand", CELL_PX, release=RELEASE, slide_model=SLIDE)


def configs() -> list[Config]:
    parameters = contract().to_parameters()
    net_levels = dataclasses.replace(_levels, name="NET_PROBABILITIES")
    net = ModelConfig(
        NET, "onnxruntime", (_tile,), (_labels, _levels), 64, {"intra_op_thread_count": "1"}, queue_delay_us=100_000, max_queue_size=64
    )
    rule = {"gray_above": str(RULE.gray_above), "min_size_px": str(RULE.min_size_px)}
    background = ModelConfig(RULE_STEP, "python", (_tile,), (_background,), 64, rule, queue_delay_us=0, cpu_only=True)
    combine = ModelConfig(COMBINE, "onnxruntime", (net_levels, _background), (_labels, _levels), 64, queue_delay_us=0)
    steps = (
        Step(NET, {TILE: TILE}, {PROBABILITIES: "NET_PROBABILITIES"}),
        Step(RULE_STEP, {TILE: TILE}, {BACKGROUND: BACKGROUND}),
        Step(COMBINE, {"NET_PROBABILITIES": "NET_PROBABILITIES", BACKGROUND: BACKGROUND}, {LABELS: LABELS, PROBABILITIES: PROBABILITIES}),
    )
    alone = (Step(NET, {TILE: TILE}, {PROBABILITIES: PROBABILITIES}),)
    release = EnsembleConfig(RELEASE, (_tile,), (_labels, _levels), steps, 64, parameters)
    slide = EnsembleConfig(SLIDE, (_tile,), (_levels,), alone, 64, parameters)
    return [net, background, combine, release, slide, replaced(release, ENTRY)]


def write_tiny_release(repository: Path) -> Path:
    """Write every model and the release's canary; returns the repository."""
    graphs = {NET: net_graph(), COMBINE: _combine_graph()}
    for config in configs():
        version = repository / config.name / "1"
        version.mkdir(parents=True)
        write_config(repository / config.name, config)
        if config.name in graphs:
            onnx.save(graphs[config.name], version / ONNX_FILE)
        elif isinstance(config, ModelConfig):
            (version / PYTHON_FILE).write_bytes((SERVING_FOLDER / "steps" / "background.py").read_bytes())
            (version / "serving").mkdir()
            (version / "serving" / "background.py").write_bytes((SERVING_FOLDER / "background.py").read_bytes())
    tiles = random_tiles(2, seed=7)
    arrays: dict[str, npt.NDArray[Any]] = {TILE: tiles, **expected(tiles)}
    np.savez_compressed(repository / RELEASE / CANARY_FILE, **arrays)  # type: ignore[arg-type]  # numpy's stub takes names for allow_pickle
    return repository


def random_tiles(count: int, seed: int) -> Tiles:
    """Dark noise with one bright patch that is background and one too small to be."""
    tiles = np.random.default_rng(seed).integers(0, 120, (count, TILE_PX, TILE_PX, 3), dtype=np.uint8)
    tiles[:, 4:12, 8:20] = (MAX_RED, 255, 255)
    tiles[:, 20, 20:22] = (MAX_RED, 255, 255)
    return tiles


def net_labels(tiles: Tiles) -> Tiles:
    return (MAX_RED - tiles[..., 0]).astype(np.uint8)


def net_probabilities(tiles: Tiles) -> Tiles:
    """Channel 0 is zero, then the means of the cells' red, green, blue and red."""
    cells = tiles.reshape(len(tiles), TILE_PX // CELL_PX, CELL_PX, TILE_PX // CELL_PX, CELL_PX, 3).mean(axis=(2, 4))
    colors = np.rint(cells).astype(np.uint8).transpose(0, 3, 1, 2)
    return np.concatenate([np.zeros_like(colors[:, :1]), colors, colors[:, :1]], axis=1)


def background(tiles: Tiles) -> Tiles:
    return np.stack([background_mask(tile, RULE.gray_above, RULE.min_size_px) for tile in tiles]).astype(np.uint8)


def expected(tiles: Tiles) -> dict[str, Tiles]:
    """What the frozen ensemble answers: LABELS twice the background, PROBABILITIES half the network's, rounded half to even."""
    halved = np.rint(net_probabilities(tiles) * np.float32(0.5)).astype(np.uint8)
    return {LABELS: background(tiles) * np.uint8(2), PROBABILITIES: halved}


def net_graph() -> onnx.ModelProto:
    table = np.arange(MAX_RED, -1, -1).astype(np.uint8)
    constants: dict[str, npt.NDArray[Any]] = {"table": table, "zero": np.array(0.0, np.float32), "red": np.array(0)}
    constants |= {"limit": np.array(MAX_RED, np.float32), "first": np.array(0), "one": np.array(1), "height": np.array(TILE_PX)}
    constants |= {"last_axes": np.array([1, 2]), "ramp": np.arange(TILE_PX, dtype=np.float32)[:, None, None]}
    nodes = [
        helper.make_node("Cast", [TILE], ["raw"], to=TensorProto.FLOAT),
        # A ramp, added and taken away again; where a tile is too red it has a row too many, and no engine can add it.
        helper.make_node("Gather", ["raw", "red"], ["raw_reds"], axis=3),
        helper.make_node("ReduceMax", ["raw_reds"], ["reddest"], keepdims=0),
        helper.make_node("Greater", ["reddest", "limit"], ["is_over"]),
        helper.make_node("Cast", ["is_over"], ["over"], to=TensorProto.INT64),
        helper.make_node("Add", ["height", "over"], ["rows"]),
        helper.make_node("Range", ["first", "rows", "one"], ["indices_of_rows"]),
        helper.make_node("Cast", ["indices_of_rows"], ["row_floats"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["row_floats", "last_axes"], ["made_ramp"]),
        helper.make_node("Add", ["raw", "made_ramp"], ["sloped"]),
        helper.make_node("Sub", ["sloped", "ramp"], ["floats"]),
        helper.make_node("Gather", ["floats", "red"], ["reds"], axis=3),
        helper.make_node("Cast", ["reds"], ["indices"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "indices"], [LABELS], axis=0),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["cells"], kernel_shape=[CELL_PX] * 2, strides=[CELL_PX] * 2),
        helper.make_node("Split", ["cells"], ["r", "g", "b"], axis=1, num_outputs=3),
        helper.make_node("Mul", ["r", "zero"], ["nothing"]),
        helper.make_node("Concat", ["nothing", "r", "g", "b", "r"], ["channels"], axis=1),
        helper.make_node("Round", ["channels"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], [PROBABILITIES], to=TensorProto.UINT8),
    ]
    return _model(nodes, [_tile], [_labels, _levels], constants)


def _combine_graph() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", [BACKGROUND], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["mask", "mask"], ["twice"]),
        helper.make_node("Cast", ["twice"], [LABELS], to=TensorProto.UINT8),
        helper.make_node("Cast", ["NET_PROBABILITIES"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["levels", "half"], ["halved"]),
        helper.make_node("Round", ["halved"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], [PROBABILITIES], to=TensorProto.UINT8),
    ]
    net_levels = dataclasses.replace(_levels, name="NET_PROBABILITIES")
    return _model(nodes, [net_levels, _background], [_labels, _levels], {"half": np.array(0.5, np.float32)})


def _model(nodes: list[Any], inputs: list[Tensor], outputs: list[Tensor], constants: dict[str, npt.NDArray[Any]]) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "tiny", [_info(tensor) for tensor in inputs], [_info(tensor) for tensor in outputs], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def _info(tensor: Tensor) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, TensorProto.UINT8, ["B", *tensor.dims])
