"""What the browser gets, as values for JSON: pictures as files, labels and heat maps as deflated bytes. Knows no server and no HTTP.

Labels do not travel as pictures: a browser may change the colors of those.
"""

from __future__ import annotations

import base64
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from serving.contract import Contract

from .analysis import Analysis
from .models import Offer
from .slides import Overview

VIEW_PX = 4096  # longest side that is shown; a canvas of more is slow or blank in browsers
_SMALL_PX = 1 << 20  # pictures up to it are shown without loss
_JPEG_QUALITY = 92

Bytes = npt.NDArray[np.uint8]


def offer_json(offer: Offer) -> dict[str, Any]:
    return {"name": offer.name, "has_mask": offer.segment is not None, "has_heat": offer.cam is not None, **task_json(offer.contract)}


def task_json(contract: Contract) -> dict[str, Any]:
    task = contract.task
    classes = [{"name": tissue.name, "color": list(tissue.color)} for tissue in task.classes]
    return {
        "task": task.name,
        "method": contract.method,
        "release": contract.release,
        "mpp": task.mpp,
        "tile_px": task.tile_px,
        "classes": classes,
    }


def analysis_json(analysis: Analysis) -> dict[str, Any]:
    """Picture and labels are every `factor`-th pixel of the image, each from the middle of its square; areas and heat maps are of all."""
    height, width = analysis.picture.rgb.shape[:2]
    factor = -(-max(height, width) // VIEW_PX)
    heat = analysis.heat
    return {
        **task_json(analysis.contract),
        "width": width,
        "height": height,
        "factor": factor,
        "image_mpp": analysis.picture.mpp,
        "picture": picture_url(thin(analysis.picture.rgb, factor)),
        "labels": None if analysis.labels is None else packed(thin(analysis.labels, factor)),
        "shares": analysis.shares,
        "area_mm2": analysis.area_mm2,
        "heat": None if heat is None else {"maps": packed(_levels(heat.maps)), "cell_px": heat.cell_px},
        "scores": None if heat is None else [float(score) for score in heat.scores],
        "segment_s": analysis.segment_s,
        "cam_s": analysis.cam_s,
    }


def overview_json(overview: Overview) -> dict[str, Any]:
    return {
        "name": overview.name,
        "width": overview.width_l0,
        "height": overview.height_l0,
        "mpp": overview.mpp,
        "thumbnail": picture_url(overview.thumbnail),
    }


def thin(pixels: Bytes, factor: int) -> Bytes:
    """Every `factor`-th pixel along both axes, of which the last may be the image's last."""
    rows, columns = (np.minimum(np.arange(0, side, factor) + factor // 2, side - 1) for side in pixels.shape[:2])
    return pixels if factor == 1 else pixels[rows][:, columns]


def packed(values: Bytes) -> dict[str, Any]:
    """Shape and zlib's bytes, row by row."""
    deflated = zlib.compress(np.ascontiguousarray(values).tobytes(), 1)
    return {"shape": list(values.shape), "bytes": base64.b64encode(deflated).decode()}


def picture_url(rgb: Bytes) -> str:
    """As a `data:` URL."""
    file, image = BytesIO(), Image.fromarray(rgb)
    if rgb.shape[0] * rgb.shape[1] <= _SMALL_PX:
        image.save(file, "PNG", compress_level=1)
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    image.save(file, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _levels(maps: npt.NDArray[np.float32]) -> Bytes:
    return np.rint(np.clip(maps, 0, 1) * 255).astype(np.uint8)
