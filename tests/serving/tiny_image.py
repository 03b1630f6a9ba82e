"""The image entry of the miniature release, added to a repository that holds it, and tiles as files."""

from __future__ import annotations

import dataclasses
from io import BytesIO
from pathlib import Path

import numpy as np
import tritonclient.grpc as grpcclient
from PIL import Image

from serving.contract import IMAGE, TILE
from serving.modelconfig import PYTHON_FILE, EnsembleConfig, ModelConfig, Step, Tensor, read_config, replaced, write_config
from serving.triton_install import SERVING_FOLDER

from . import tiny_release as tiny

IMAGE_ENTRY, IMAGE_RELEASE, DECODE = f"{tiny.ENTRY}_image", f"{tiny.RELEASE}_image", "tiny_r1_decode"


def add_image_entry(repository: Path) -> Path:
    """Write the decode step, the frozen ensemble and the entry; returns the repository."""
    frozen = read_config(repository / tiny.RELEASE)
    assert isinstance(frozen, EnsembleConfig)
    files, tile = Tensor(IMAGE, "TYPE_STRING", (1,)), frozen.inputs[0]
    decode = ModelConfig(DECODE, "python", (files,), (tile,), 64, {"tile_px": str(tiny.TILE_PX)}, queue_delay_us=0, cpu_only=True)
    contract = dataclasses.replace(tiny.contract(), takes="image")
    steps = (Step(DECODE, {IMAGE: IMAGE}, {TILE: TILE}), *frozen.steps)
    behind = EnsembleConfig(IMAGE_RELEASE, (files,), frozen.outputs, steps, 64, contract.to_parameters())
    for config in (decode, behind, replaced(behind, IMAGE_ENTRY)):
        (repository / config.name / "1").mkdir(parents=True)
        write_config(repository / config.name, config)
    version = repository / DECODE / "1"
    (version / PYTHON_FILE).write_bytes((SERVING_FOLDER / "steps" / "decode.py").read_bytes())
    (version / "serving").mkdir()
    (version / "serving" / "image_file.py").write_bytes((SERVING_FOLDER / "image_file.py").read_bytes())
    return repository


def png(tile: tiny.Tiles) -> bytes:
    file = BytesIO()
    Image.fromarray(tile).save(file, "PNG")
    return file.getvalue()


def ask_images(client: grpcclient.InferenceServerClient, model: str, files: list[bytes], outputs: tuple[str, ...]) -> dict[str, tiny.Tiles]:
    """One request; the server's error as it came."""
    given = grpcclient.InferInput(IMAGE, [len(files), 1], "BYTES")
    given.set_data_from_numpy(np.array([[file] for file in files], dtype=np.object_))
    answer = client.infer(model, [given], outputs=[grpcclient.InferRequestedOutput(name) for name in outputs])
    return {name: answer.as_numpy(name) for name in outputs}
