"""The phases of a slide: which of the client's functions is which. Knows no clock."""

from __future__ import annotations

from typing import Any

from clients import segment as segment_module
from clients.ahead import Ahead
from clients.blend import Blender
from clients.journal import Journal
from clients.native_tiles import NativeReader
from clients.omezarr import LabelWriter
from clients.served_model import ServedModel
from clients.strips import StripMaker
from clients.tally import Tally

REST = "send and receive"  # gRPC's own threads are what is left of the process
# What a thread does outside these is its caller's; gRPC's own threads are what is left of the process ("send and receive").
CALLS: tuple[tuple[Any, str, str], ...] = (
    (segment_module, "open_slide", "open"),
    (segment_module, "select_cells", "mask"),
    (NativeReader, "read_tile", "decode"),
    (Ahead, "_make", "cut, send"),
    (ServedModel, "send", "send and receive"),
    (ServedModel, "check", "send and receive"),
    (segment_module, "_write_strips", "stitch"),
    (Blender, "add", "blend"),
    (Blender, "finish_row", "blend"),
    (StripMaker, "_make_strip", "labels"),
    (LabelWriter, "write", "write"),
    (Journal, "save", "journal"),
    (Tally, "add", "write"),
    (LabelWriter, "finish", "pyramid"),
    (segment_module, "read_thumbnail", "pictures"),
    (segment_module, "draw_overlay", "pictures"),
    (segment_module, "replace_file", "pictures"),
    (segment_module, "write_outputs", "polygons"),
)
