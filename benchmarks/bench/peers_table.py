"""The peers: how each is started on a slide, what serves it, and where its mask lies. Knows no order of runs and no figures."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clients.omezarr import read_label
from serving.embedded import EmbeddedTriton

from .errors import BenchError
from .peers_environment import http_packages, int8_networks, tiatoolbox_python

_PEERS_FOLDER = Path(__file__).parents[1] / "peers"
_MEND = Path(__file__).parents[2] / "training" / "torchvision_schemas.py"
_HTTP_WAIT_S = 120.0
_LOOP = "benchmarks.peers.openslide_loop"


@dataclass(frozen=True)
class Task:
    """One run of a peer.

    Attributes:
        networks: what `make_networks` wrote.
        folder: of everything that is made once: environments, masks.
        output: emptied before; of this peer alone.
        int8_max_miou_loss: points of mean IoU against fp32's labels that export's gate lets int8 lose.
    """

    slide: Path
    networks: Path
    folder: Path
    output: Path
    int8_max_miou_loss: float = 1.0

    @property
    def labels(self) -> Path:
        return self.output / "labels.npy"


@dataclass(frozen=True)
class Server:
    """What a peer asks.

    Attributes:
        pid: root of its processes.
    """

    address: str
    pid: int


NO_SERVER = Server("", 0)


@dataclass(frozen=True)
class Answer:
    """What a peer said of its own run.

    Attributes:
        work_s: seconds from a loaded network to the finished mask, in its own process.
        labels: uint8 (height, width); None where it makes no mask.
    """

    tiles: int
    work_s: float
    labels: npt.NDArray[np.uint8] | None


@dataclass(frozen=True)
class Peer:
    """Something that segments a slide.

    Attributes:
        help: what it is.
        command: its child process.
        prepare: installs or makes what it needs; what its points tell of that; raises PeerMissing.
        serve: the server that it asks, started before and not measured until it is ready; None = it has none.
        read: out of what the child printed and wrote.
        reference: whose mask its own is compared with; "" = it makes none.
    """

    help: str
    command: Callable[[Task, Server], list[str]]
    read: Callable[[Task, str], Answer]
    prepare: Callable[[Task], Mapping[str, Any]] = lambda task: {}
    serve: Callable[[Task], Any] | None = None
    reference: str = "openslide-torch"


# ---- loops and TIAToolbox: they print their figures


def _loop(engine: str) -> Callable[[Task, Server], list[str]]:
    def command(task: Task, server: Server) -> list[str]:
        where = ["--networks", str(task.networks), "--labels", str(task.labels)]
        return [
            sys.executable,
            "-m",
            _LOOP,
            str(task.slide),
            "--engine",
            engine,
            *where,
            *(["--address", server.address] if server.pid else []),
        ]

    return command


def _tiatoolbox(*flags: str) -> Callable[[Task, Server], list[str]]:
    def command(task: Task, server: Server) -> list[str]:
        where = ["--networks", str(task.networks), "--labels", str(task.labels), "--mend", str(_MEND)]
        python = tiatoolbox_python(tiatoolbox_folder(task.folder))
        return [str(python), str(_PEERS_FOLDER / "tiatoolbox_segmentor.py"), str(task.slide), *where, *flags]

    return command


def tiatoolbox_folder(folder: Path) -> Path:
    return folder / "tiatoolbox"


def http_folder(folder: Path) -> Path:
    return folder / "fastapi"


def int8_folder(folder: Path) -> Path:
    return folder / "networks-int8"


def read_printed(task: Task, output: str) -> Answer:
    """The last line that a script printed; its mask.

    Raises:
        BenchError: the line is no JSON of ours.
    """
    lines = output.strip().splitlines()
    try:
        figures = json.loads(lines[-1])
        tiles, work_s = int(figures["tiles"]), float(figures["work_s"])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise BenchError(
            f"peer: expected JSON with tiles and work_s as the last line, got {lines[-1:]}: run its command by hand"
        ) from error
    return Answer(tiles, work_s, np.load(task.labels) if task.labels.is_file() else None)


# ---- histoserve


def _segment(model: str, *flags: str) -> Callable[[Task, Server], list[str]]:
    """As a user types it; every tile, as the others do, and no polygons, which none of them makes."""

    def command(task: Task, server: Server) -> list[str]:
        whole = ["--overlap", "0", "--no-tissue", "--no-geojson", "--overwrite", "--json", "--output", str(task.output / "masks")]
        where = ["--server", server.address] if server.pid else ["--repository", str(task.networks / "repository")]
        return [sys.executable, "-m", "histoserve", "segment", str(task.slide), "--model", model, *whole, *where, *flags]

    return command


def read_summary(task: Task, output: str) -> Answer:
    """Of `histoserve segment --json`: its phases' seconds together, its mask, which others may be compared with."""
    summary = json.loads(output)[0]["summary"]
    labels = read_label(task.output / "masks" / f"{task.slide.stem}.ome.zarr").labels
    np.save(task.labels, labels)
    return Answer(int(summary["tissue_tiles"]), sum(summary["seconds"].values()), labels)


def _triton(model: str, networks: Callable[[Task], Path] = lambda task: task.networks) -> Callable[[Task], Any]:
    @contextmanager
    def serve(task: Task) -> Iterator[Server]:
        with EmbeddedTriton(networks(task) / "repository", [model]) as server:
            yield Server(server.address, server.pid)

    return serve


# ---- FastAPI


@contextmanager
def _fastapi(task: Task) -> Iterator[Server]:
    port, packages = _free_port(), http_packages(http_folder(task.folder))
    where = ["--repository", str(task.networks / "repository"), "--model", "peers_segment", "--port", str(port)]
    path = os.pathsep.join(part for part in (str(packages), os.environ.get("PYTHONPATH", "")) if part)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers.http_server", *where],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await_ready(process, f"http://127.0.0.1:{port}/ready")
        yield Server(f"127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        process.wait()


def _await_ready(process: subprocess.Popen[bytes], url: str) -> None:
    end_s = time.monotonic() + _HTTP_WAIT_S
    while time.monotonic() < end_s and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise BenchError(
        f"fastapi: expected {url} to answer within {_HTTP_WAIT_S:g} s, it did not: run benchmarks/peers/http_server.py by hand"
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


# ---- all of them


def _needs_tiatoolbox(task: Task) -> dict[str, Any]:
    tiatoolbox_python(tiatoolbox_folder(task.folder))
    return {}


def _needs_http(task: Task) -> dict[str, Any]:
    http_packages(http_folder(task.folder))
    return {}


def _needs_int8(task: Task) -> dict[str, Any]:
    return {"gate": int8_networks(int8_folder(task.folder), task.networks, task.slide, task.int8_max_miou_loss)}


PEERS: dict[str, Peer] = {
    "openslide-torch": Peer("read_region, torch", _loop("torch"), read_printed),
    "openslide-onnxruntime": Peer("read_region, ONNX Runtime", _loop("onnxruntime"), read_printed),
    "tiatoolbox": Peer("TIAToolbox's semantic segmentor, torch", _tiatoolbox(), read_printed, _needs_tiatoolbox),
    "fastapi": Peer("read_region, FastAPI before histoserve's engine", _loop("http"), read_printed, _needs_http, _fastapi),
    "memory": Peer("histoserve's engine, tiles in memory, no slide", _loop("memory"), read_printed, reference=""),
    "local": Peer("histoserve segment --engine local", _segment("peers", "--engine", "local"), read_summary),
    "served": Peer("histoserve segment through the embedded Triton", _segment("peers"), read_summary, serve=_triton("peers_segment")),
    "served-int8": Peer(
        "histoserve through Triton, int8 where export's gate allows it; its mask against that of fp32",
        _segment("peersint8"),
        read_summary,
        _needs_int8,
        _triton("peersint8_segment", lambda task: int8_folder(task.folder)),
        reference="served",
    ),
    "openslide-null": Peer("read_region, no network", _loop("null"), read_printed, reference="openslide-null"),
    "tiatoolbox-null": Peer("TIAToolbox, no network", _tiatoolbox("--null"), read_printed, _needs_tiatoolbox, reference="openslide-null"),
    "served-null": Peer(
        "histoserve through Triton, no network",
        _segment("peersnull"),
        read_summary,
        serve=_triton("peersnull_segment"),
        reference="openslide-null",
    ),
}


def empty(folder: Path) -> None:
    """Make it anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
