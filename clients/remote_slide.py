"""One slide whose mask goes to a store: made in a scratch folder of this machine, brought there, cleared away. Knows no command."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

from .errors import OutputError
from .lock import lock_store
from .omezarr import read_notes
from .pipeline import Progress
from .segment import SegmentOptions, SlideModel, prepare, segment_slide
from .slide import open_slide
from .store_url import StoreFolder
from .summary import SlideSummary
from .upload import METADATA, is_whole, upload_slide

# Of each slide, what the run's page is made of: stays in the scratch folder until that is written.
FOR_THE_PAGE = ("overlay.png", "summary.json")


def default_scratch(url: str) -> Path:
    """The folder of the temporary one that belongs to this user and URL: the same for the same command again.

    Raises:
        OutputError: it belongs to somebody else.
    """
    path = Path(tempfile.gettempdir()) / f"histoserve-{os.getuid()}" / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if path.parent.lstat().st_uid != os.getuid():  # anybody may make names in the temporary folder
        raise OutputError(f"{path.parent}: expected a folder of this user, it belongs to another: give --scratch")
    return path


def scratch_folder(scratch: Path, slide: Path) -> Path:
    """Of one slide: what is in it is its and nobody else's."""
    return scratch / f"{slide.stem}.slide"


def segment_to_store(
    path: Path,
    model: SlideModel,
    folder: StoreFolder,
    scratch: Path,
    options: SegmentOptions,
    progress: Progress,
    turn: threading.Lock | None = None,
) -> SlideSummary | None:
    """What `segment_slide` does, with the results in a store. Interrupted, also while it uploads, the same call goes on where it was.

    Raises:
        ClientError: the slide, its scale, the server, the scratch folder or the store.
    """
    store = f"{path.stem}.ome.zarr"
    if _may_stay(path, model, folder, store, options):
        return None
    local = scratch_folder(scratch, path)
    # What the scratch folder holds is this command's own: a finished mask there was not brought to the store yet, another one is in the way.
    summary = segment_slide(path, model, local, replace(options, overwrite=True, skip_existing=True), progress, turn)
    with lock_store(local / store):
        if not (local / store).exists():
            raise OutputError(f"{local / store}: expected the finished mask, another process has brought it away: run the command again")
        summary = summary or _read_summary(local / f"{path.stem}.summary.json")
        upload_slide(local, folder, store)
        for name in FOR_THE_PAGE:
            os.replace(local / f"{path.stem}.{name}", scratch / f"{path.stem}.{name}")
        shutil.rmtree(local)
    return summary


def _may_stay(path: Path, model: SlideModel, folder: StoreFolder, store: str, options: SegmentOptions) -> bool:
    """Whether the store has the mask that would be made.

    Raises:
        OutputError: it has one that may not be replaced.
    """
    where = f"{folder.url}/{store}"
    if (options.overwrite and not options.skip_existing) or not is_whole(folder, store):
        return False
    if not options.skip_existing:
        raise OutputError(f"{where}: expected no mask there yet, found one: give --overwrite to replace it, --skip-existing to leave it")
    with open_slide(path) as slide:
        changes = prepare(slide, model, Path(store), options).fingerprint.changes(_read_fingerprint(folder, store))
    if changes and not options.overwrite:
        raise OutputError(f"{where}: expected the mask of this very run, since then changed: {', '.join(changes)}: give --overwrite")
    return not changes


def _read_fingerprint(folder: StoreFolder, store: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as temporary:
        for name in folder.list_files(store):
            if name.rsplit("/", 1)[-1] in METADATA:
                folder.get(name, Path(temporary) / name)
        fingerprint: dict[str, str] = read_notes(Path(temporary) / store).get("fingerprint", {})
    return fingerprint


def _read_summary(path: Path) -> SlideSummary:
    content = json.loads(path.read_text(encoding="utf-8"))
    return SlideSummary(**{**content, "mpp": tuple(content["mpp"]), "size_px": tuple(content["size_px"])})
