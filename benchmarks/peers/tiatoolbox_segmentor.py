"""TIAToolbox 2.x's semantic segmentor with our network, in a virtual environment of its own. Imports nothing of histoserve.

    ENVIRONMENT/bin/python benchmarks/peers/tiatoolbox_segmentor.py SLIDE --networks FOLDER --labels FILE.npy --mend FILE [--null]

The last line it prints is JSON: tiles, load_s (network), work_s (all else once it is loaded).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


def mend_torchvision(file: Path) -> None:
    """Run training/torchvision_schemas.py, which says why; it needs torch alone."""
    spec = importlib.util.spec_from_file_location("torchvision_schemas", file)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def make_model(networks: Path, notes: dict[str, Any], null: bool) -> Any:
    """A TIAToolbox model: NHWC tiles → float32 (n, side, side, K), as its own segmentation models answer."""
    torch = importlib.import_module("torch")
    base = importlib.import_module("tiatoolbox.models.models_abc").ModelABC
    side, channels = notes["tile_px"], notes["classes"] + 1
    program = None if null else torch.export.load(networks / "peers.pt2").module()
    # The stripes of `openslide_loop.load_null`, so that what is put together can be compared.
    constant = np.zeros((64, side, side, channels), np.float32)
    columns = np.arange(side)
    constant[:, :, columns, columns * notes["classes"] // side + 1] = 1

    class Network(base):  # type: ignore[misc, valid-type]  # of a package that is not here
        def forward(self, images: Any) -> Any:
            cells = program(images).float() / 255  # type: ignore[misc]
            return torch.nn.functional.interpolate(cells, scale_factor=float(notes["cell_px"]), mode="bilinear")

        @staticmethod
        def infer_batch(model: Any, batch_data: Any, *, device: str) -> Any:
            if null:
                return constant[: len(batch_data)].copy()
            with torch.inference_mode():
                return model(torch.as_tensor(batch_data)).permute(0, 2, 3, 1).contiguous().numpy()

        @staticmethod
        def preproc(image: Any) -> Any:
            return image

        @staticmethod
        def postproc(image: Any) -> Any:
            return image.argmax(axis=-1).astype(np.uint8)

    return Network()


def segment(options: argparse.Namespace) -> dict[str, float]:
    """Segment the slide; what `main` prints."""
    notes = json.loads((options.networks / "networks.json").read_text(encoding="utf-8"))
    torch = importlib.import_module("torch")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    engines = importlib.import_module("tiatoolbox.models.engine.semantic_segmentor")
    start_s = time.monotonic()
    segmentor = engines.SemanticSegmentor(
        make_model(options.networks, notes, options.null), batch_size=options.batch, num_workers=options.workers
    )
    loaded_s = time.monotonic()
    shape, native = (notes["tile_px"],) * 2, [{"units": "baseline", "resolution": 1.0}]
    layout = importlib.import_module("tiatoolbox.models.engine.io_config").IOSegmentorConfig(
        input_resolutions=native, output_resolutions=native, patch_input_shape=shape, patch_output_shape=shape, stride_shape=shape
    )
    with tempfile.TemporaryDirectory() as folder:
        written = segmentor.run(
            [options.slide],
            ioconfig=layout,
            patch_mode=False,
            save_dir=Path(folder) / "out",
            output_type="zarr",
            auto_get_mask=False,
            device="cpu",
        )
        work_s = time.monotonic() - loaded_s
        store = importlib.import_module("zarr").open(str(next(iter(written.values()))), mode="r")
        labels = np.asarray(store["predictions"]).squeeze().astype(np.uint8)
    np.save(options.labels, labels)
    tiles = -(-labels.shape[0] // shape[0]) * -(-labels.shape[1] // shape[1])
    return {"tiles": tiles, "load_s": loaded_s - start_s, "work_s": work_s}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("slide", type=Path)
    for name in ("networks", "labels", "mend"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--null", action="store_true")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    mend_torchvision(options.mend)
    print(json.dumps(segment(options)))


if __name__ == "__main__":
    main()
