"""A slide whose scanned rectangle lies somewhere on the glass, in Leica's format: OpenSlide gives it `openslide.bounds`."""

from __future__ import annotations

from pathlib import Path

import tifffile

from .painted import Rgb

_NM_PER_UM = 1000
_XML = """<?xml version="1.0" encoding="UTF-8"?>
<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">
 <collection name="c" uuid="u" sizeX="{collection[0]}" sizeY="{collection[1]}">
  <barcode></barcode>
  <image name="i" uuid="v">
   <creationDate>2026-01-01T00:00:00Z</creationDate>
   <device model="m" version="1"/>
   <pixels sizeX="{width}" sizeY="{height}">{dimensions}</pixels>
   <view sizeX="{view[0]}" sizeY="{view[1]}" offsetX="{offset[0]}" offsetY="{offset[1]}" spacingZ="0"/>
   <scanSettings>
    <objectiveSettings><objective>20</objective></objectiveSettings>
    <illuminationSettings><numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource></illuminationSettings>
   </scanSettings>
  </image>
 </collection>
</scn>
"""


def write_leica(path: Path, levels: list[Rgb], mpp: float, glass_px: tuple[int, int], offset_px: tuple[int, int]) -> Path:
    """A slide of `glass_px` (width, height) whose scanned rectangle, `levels`, starts at `offset_px`; lossless."""
    nm_per_px = round(mpp * _NM_PER_UM)
    height, width = levels[0].shape[:2]
    dimensions = "".join(
        f'<dimension sizeX="{level.shape[1]}" sizeY="{level.shape[0]}" r="{index}" ifd="{index}"/>' for index, level in enumerate(levels)
    )
    xml = _XML.format(
        collection=tuple(side * nm_per_px for side in glass_px),
        view=(width * nm_per_px, height * nm_per_px),
        offset=tuple(side * nm_per_px for side in offset_px),
        width=width,
        height=height,
        dimensions=dimensions,
    )
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for index, level in enumerate(levels):
            writer.write(
                level,
                tile=(64, 64),
                photometric="rgb",
                compression="adobe_deflate",
                resolution=(1e4 / mpp * level.shape[1] / width, 1e4 / mpp * level.shape[0] / height),
                resolutionunit="CENTIMETER",
                description=xml if index == 0 else None,
                metadata=None,
            )
    return path
