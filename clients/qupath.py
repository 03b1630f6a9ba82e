"""A script for QuPath that shows a slide's polygons on it: `S.qupath.groovy`. Written to QuPath's documented API, not run here. Knows no pixels."""

from __future__ import annotations

import json
from pathlib import Path

from serving.contract import TissueTask

from .placement import Placement

_SCRIPT = """\
// histoserve: shows the mask of {slide} as annotations. For QuPath 0.5 to 0.7.
//
// 1. Open the slide {slide} in QuPath.
// 2. Automate > Script editor, open this file, Run. Running it again replaces what it added.
//
// The polygons are in pixels of the slide's full resolution, counted from the corner of the scanned rectangle
// (openslide.bounds, here x = {origin_x}, y = {origin_y}): as QuPath shows slides unless they were opened with --no-crop.
//
// The mask itself as an overlay: QuPath reads OME-Zarr of NGFF 0.4 (histoserve segment --ngff 0.4); open the folder
// {mask}/labels/{label} like an image, or drag it onto the window.

import qupath.fx.dialogs.FileChoosers
import qupath.lib.io.PathIO
import qupath.lib.objects.classes.PathClass
import static qupath.lib.scripting.QP.*

// Where the polygons were written. Where they are no longer there, the slide's folder is looked into, then you are asked.
def polygons = {polygons}
def folder = {folder}
def colors = {colors}

def server = getCurrentServer()
if (server == null) {{
    print 'Open the slide first, then run this script.'
    return
}}
def (expectedWidth, expectedHeight) = {expected}
if (server.getWidth() != expectedWidth || server.getHeight() != expectedHeight) {{
    print 'Expected an image of ' + expectedWidth + ' x ' + expectedHeight + ' pixels, this one has ' + server.getWidth() + ' x ' +
        server.getHeight() + ': another slide, or one opened with other bounds. Nothing was added.'
    return
}}

def candidates = [new File(folder, polygons)]
server.getURIs().findAll {{ it.scheme == 'file' }}.each {{ candidates << new File(new File(it).parentFile, polygons) }}
def file = candidates.find {{ it.isFile() }} ?: FileChoosers.promptForFile('Where is ' + polygons + '?')
if (file == null) {{
    print 'Nothing was added: there is no ' + candidates.join(', and no ')
    return
}}

def added = PathIO.readObjects(file.toPath())
// A class that QuPath knows already keeps its color unless it is set.
colors.each {{ name, rgb -> PathClass.fromString(name).setColor((255 << 24) | (rgb[0] << 16) | (rgb[1] << 8) | rgb[2]) }}
def ids = added.collect {{ it.getID() }} as Set
removeObjects(getAnnotationObjects().findAll {{ it.getID() in ids }}, false)
addObjects(added)
fireHierarchyUpdate()
print 'Added ' + added.size() + ' annotations from ' + file
"""


def write_qupath_script(
    path: Path, slide: str, polygons: str, mask: str, task: TissueTask, placement: Placement, shown_l0: tuple[int, int]
) -> None:
    """Write the script.

    Args:
        polygons: name of the GeoJSON file beside it.
        mask: name of the store.
        shown_l0: width and height of what QuPath shows: `openslide.bounds`.
    """
    colors = ", ".join(f"{_quoted(tissue.name)}: {list(tissue.color)}" for tissue in task.classes)
    text = _SCRIPT.format(
        slide=slide.replace("\n", " "),
        origin_x=placement.origin_l0[0],
        origin_y=placement.origin_l0[1],
        mask=mask,
        label=task.name,
        polygons=_quoted(polygons),
        folder=_quoted(str(path.resolve().parent)),
        colors=f"[{colors}]",
        expected=list(shown_l0),
    )
    path.write_text(text, encoding="utf-8")


def _quoted(text: str) -> str:
    """A Groovy string that is not interpolated."""
    return "'" + json.dumps(text, ensure_ascii=False)[1:-1].replace("'", "\\'").replace('\\"', '"') + "'"
