"""A finished OME-NGFF 0.5 store (Zarr v3) into one of OME-NGFF 0.4 (Zarr v2), for viewers that read only that. Knows no slide and no task."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from . import zarr_pipeline  # noqa: F401
from .label_store import ngff_attributes

NGFF = "0.4"
CHUNK_PX = 1024  # without shards every chunk is a file
# Every reader of Zarr v2 has it; QuPath's needs a native library for Blosc.
_COMPRESSOR: dict[str, Any] = {"id": "zlib", "level": 3}
_VERSIONED = ("image-label", "omero")


def convert_to_04(store: Path) -> None:
    """Replace a store of ours by the same in OME-NGFF 0.4, under its own name; holds one row of chunks.

    The pixels, the levels and where they lie stay the same. The new store gets the name when it is whole. A store that is 0.4 already stays.
    """
    root = zarr.open_group(store, mode="r")
    if ngff_attributes(root)[1] == NGFF:
        return
    partial = store.with_name(f".{store.name}.v2.partial")
    aside = store.with_name(f".{store.name}.v3")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _convert_group(root, zarr.open_group(partial, mode="w", zarr_format=2))
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(store, aside)
        os.rename(partial, store)
        shutil.rmtree(aside)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _convert_group(source: zarr.Group, target: zarr.Group) -> None:
    attributes = dict(source.attrs)
    attributes |= _attributes_04(attributes.pop("ome", {}))
    target.attrs.update(attributes)
    for name, member in source.members(max_depth=0):
        if isinstance(member, zarr.Array):
            _convert_array(member, target, name)
        else:
            _convert_group(member, target.create_group(name))


def _attributes_04(ome: Any) -> dict[str, Any]:
    """0.5 has one version beside everything, 0.4 one within each of its objects."""
    attributes: dict[str, Any] = {key: value for key, value in ome.items() if key != "version"}
    if "multiscales" in attributes:
        attributes["multiscales"] = [{"version": NGFF, **entry} for entry in attributes["multiscales"]]
    for key in _VERSIONED:
        if key in attributes:
            attributes[key] = {"version": NGFF, **attributes[key]}
    return attributes


def _convert_array(source: zarr.Array[Any], target: zarr.Group, name: str) -> None:
    leading = source.shape[:-2]
    array = target.create_array(
        name,
        shape=source.shape,
        dtype=source.dtype,
        chunks=(*leading, *(min(CHUNK_PX, side) for side in source.shape[-2:])),
        compressors=_COMPRESSOR,
        chunk_key_encoding={"name": "v2", "separator": "/"},
        fill_value=0,
    )
    for top in range(0, source.shape[-2], CHUNK_PX):
        rows = (*(slice(None) for _ in leading), slice(top, top + CHUNK_PX))
        array[rows] = np.asarray(source[rows])
