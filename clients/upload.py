"""The files of one finished slide to a store, in an order in which nobody takes a half for the whole. Knows no pixels.

Chunks and the files beside the mask come first; then metadata, the deepest first, so that an array or group that can be opened has all that is
in it; the file of the mask's root comes last, after a listing has shown that all others are there with their sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .errors import OutputError
from .store_url import StoreFolder
from .unfinished import list_files

# By what they let a reader open: in Zarr v2 a group without .zattrs is no image.
METADATA = (".zgroup", ".zarray", ".zattrs", "zarr.json")
_ROOTS = METADATA[-2:]  # of NGFF 0.4 and 0.5: the file that makes a store one
_THREADS = 8  # files on the way at a time


def is_whole(folder: StoreFolder, store: str) -> bool:
    """Whether a store of that name is there with all its files."""
    return any(folder.exists(f"{store}/{root}") for root in _ROOTS)


def upload_slide(files: Path, folder: StoreFolder, store: str) -> None:
    """Bring all files of a slide there, those of its mask last; what was there of its stores is removed before.

    Args:
        files: folder of this machine that holds the slide's files and nothing else (names with a dot in front are left out).
        store: name of the mask's store.

    Raises:
        OutputError: the store cannot be written to, or does not show what was written.
    """
    sizes = {name: size for name, size in list_files(files, files).items() if not name.startswith(".")}
    for top in sorted({name.split("/")[0] for name in sizes if "/" in name}, key=lambda top: top != store):
        _clear(folder, top)
    data, metadata = upload_order(list(sizes), store)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="upload") as pool:
        for _ in pool.map(lambda name: folder.put(files / name, name), data):
            pass
    for name in metadata[:-1]:
        folder.put(files / name, name)
    _require_all(folder, {name: sizes[name] for name in (*data, *metadata[:-1])})
    folder.put(files / metadata[-1], metadata[-1])


def upload_order(names: Sequence[str], store: str) -> tuple[list[str], list[str]]:
    """What may come in any order, and what follows one by one.

    Args:
        names: paths within the slide's folder, "S.ome.zarr/labels/tissue/0/zarr.json" for one.
    """

    def place(name: str) -> tuple[bool, int, int]:
        return name.split("/")[0] == store, -name.count("/"), METADATA.index(name.rsplit("/", 1)[-1])

    metadata = {name for name in names if "/" in name and name.rsplit("/", 1)[-1] in METADATA}
    return [name for name in names if name not in metadata], sorted(metadata, key=place)


def _clear(folder: StoreFolder, store: str) -> None:
    """Remove a store, first what lets readers open it."""
    there = list(folder.list_files(store))
    data, metadata = upload_order(there, store)
    for name in reversed(metadata):
        folder.remove(name)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="clear") as pool:
        for _ in pool.map(folder.remove, data):
            pass


def _require_all(folder: StoreFolder, sizes: Mapping[str, int]) -> None:
    there: dict[str, int] = {}
    for top in {name.split("/")[0] for name in sizes}:
        there |= folder.list_files(top)
    wrong = sorted(name for name, size in sizes.items() if there.get(name) != size)
    if wrong:
        raise OutputError(
            f"{folder.url}: expected {len(sizes)} files as they were sent, {len(wrong)} are missing or of another size, e.g. {wrong[0]} "
            f"({there.get(wrong[0])} bytes for {sizes[wrong[0]]}): run the command again"
        )
