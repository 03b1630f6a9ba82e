"""Image files in memory of any size: checked, decoded, stitched from tiles as slides are. Knows no server.

Pixels are taken as they are stored and at the model's scale: no color profile, no EXIF rotation, no resizing.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from serving.background import area_fraction, keep_large
from serving.contract import Contract
from serving.probabilities import add_background

from .blend import CellRows
from .call_errors import ImageFileError
from .call_results import Segmentation
from .mirror import read_mirrored
from .pipeline import LabelStrips, Plan, TileModel
from .tiling import make_grid

OVERLAP = 0.125  # of a tile's side, as for slides
MAX_PX = 2**26
_FORMATS = ("JPEG", "PNG")
_MODES = {"1", "L", "P", "RGB", "LA", "RGBA"}

Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PictureLimits:
    """How large an image may be.

    Attributes:
        max_px: pixels in all, 1…2²⁶; decoded they take 3 bytes each, its answer about as much again.
    """

    max_px: int = MAX_PX

    def __post_init__(self) -> None:
        if not 1 <= self.max_px <= MAX_PX:
            raise ValueError(f"max_px: expected 1…{MAX_PX}, got {self.max_px}: larger images are slides, for `histoserve segment`")


def is_for_server(data: bytes, tile_px: int) -> bool:
    """Whether the server's own image entry takes the file as it is: one of a tile's size, or WebP, whose size only decoding tells safely."""
    return data.startswith(b"RIFF") or _size(data) == (tile_px, tile_px)


def decode_picture(data: bytes, limits: PictureLimits) -> Rgb:
    """A JPEG or PNG file → uint8 RGB (H, W, 3). Gray becomes three equal channels; alpha must be opaque everywhere.

    Raises:
        ImageFileError: another format or depth, too large, animated, transparent, damaged or cut off.
    """
    width, height = _size(data)
    if width * height > limits.max_px:
        raise ImageFileError(
            f"image: expected at most {limits.max_px} pixels, got {width} × {height}: cut it, or write it as a slide for `histoserve segment`"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of what is damaged but legible
            _verify(data)
            return _to_rgb(data)
    except ImageFileError:
        raise
    except Exception as error:  # Pillow raises of every kind
        raise ImageFileError(f"image: expected a whole {' or '.join(_FORMATS)} file, it is damaged or cut off: {error}") from error


def segment_picture(rgb: Rgb, model: TileModel, in_flight: int) -> Segmentation:
    """Tiles of the image through the model, blended as a slide's, with the background rule on the whole image.

    Raises:
        CallError: the model fails.
    """
    plan = _plan(rgb, model, in_flight)
    rows: list[CellRows] = []
    strips = LabelStrips(plan, model, lambda done, total: None, on_rows=rows.append)
    labels = np.concatenate([strip for _, strip in strips])
    return Segmentation(model.contract, labels, _levels(rows, model.contract))


def _levels(rows: list[CellRows], contract: Contract) -> npt.NDArray[np.uint8]:
    evidence = np.concatenate([part.evidence for part in rows], axis=1)
    rule, bright = contract.task.background, np.concatenate([part.bright for part in rows])
    background = np.zeros_like(bright) if rule is None else keep_large(bright, rule.min_size_px)
    return add_background(evidence, area_fraction(background, contract.cell_px))


def _plan(rgb: Rgb, model: TileModel, in_flight: int) -> Plan:
    height, width = rgb.shape[:2]
    tile_px = model.contract.task.tile_px
    grid = make_grid(width, height, tile_px, model.contract.cell_px, OVERLAP)

    def read(x0: int, y0: int, x1: int, y1: int) -> Rgb:
        return rgb[y0:y1, x0:x1]

    def read_tile(x_m: int, y_m: int) -> Rgb:
        return read_mirrored(read, (width, height), x_m, y_m, tile_px, tile_px)

    places = [(row, column) for row in range(grid.rows) for column in range(grid.columns)]
    return Plan(read_tile, width, height, grid, places, model.max_batch, in_flight, strip_px=grid.height_c * grid.cell_px)


def _size(data: bytes) -> tuple[int, int]:
    """(width, height), of the header alone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is asked next
            with Image.open(BytesIO(data), formats=_FORMATS) as image:
                return image.size
    except Image.DecompressionBombError as error:
        raise ImageFileError(f"image: expected at most {MAX_PX} pixels: {error}") from error
    except Exception as error:  # Pillow raises of every kind
        raise ImageFileError(
            f"image: expected the bytes of a {' or '.join(_FORMATS)} file, got {len(data)} bytes that begin with {data[:8].hex(' ') or 'nothing'}"
        ) from error


def _verify(data: bytes) -> None:
    """What decoding alone skips."""
    with Image.open(BytesIO(data), formats=_FORMATS) as image:
        if image.format == "PNG":
            if max(data[24], 8) != 8:
                raise ImageFileError(f"image: expected at most 8 bits per channel, got {data[24]}: convert it first")
            image.verify()  # the checksums of the pixels


def _to_rgb(data: bytes) -> Rgb:
    with Image.open(BytesIO(data), formats=_FORMATS) as image:
        if getattr(image, "n_frames", 1) != 1:
            raise ImageFileError("image: expected one picture, got an animation or several")
        if image.mode not in _MODES:
            raise ImageFileError(f"image: expected RGB or gray of 8 bits, got Pillow's mode {image.mode}: convert it first")
        if not image.has_transparency_data:
            return np.array(image.convert("RGB"))
        pixels = np.array(image.convert("RGBA"))
    if (pixels[..., 3] != 255).any():
        raise ImageFileError("image: expected opaque pixels, got transparent ones: lay it on a background first")
    return np.ascontiguousarray(pixels[..., :3])
