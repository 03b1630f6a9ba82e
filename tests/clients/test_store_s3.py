"""`segment` into a bucket: the whole way through s3fs to a server of S3's protocol in another process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.omezarr import read_label
from serving.port import free_port

from .fake_triton import MODEL, FakeTriton
from .painted import contract, paint, stripes, write_slide

pytestmark = pytest.mark.slow
TRUTH = stripes((300, 420))
# The command as a process of its own: s3fs keeps connections that are closed when the interpreter ends.
COMMAND = [sys.executable, "-c", "import sys; from clients.cli import main; sys.exit(main(sys.argv[1:]))"]


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    """A server without a bucket."""
    port = free_port()
    with (tmp_path / "moto.log").open("w") as log:
        server = subprocess.Popen([Path(sys.executable).parent / "moto_server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            while not _answers(url):
                assert server.poll() is None, (tmp_path / "moto.log").read_text()
            yield url
        finally:
            server.terminate()
            server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=60):
            return True
    except OSError:
        return False


def segment(endpoint: str, server: FakeTriton, slide: Path, url: str, scratch: Path, *more: str) -> subprocess.CompletedProcess[str]:
    where = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "FSSPEC_S3_ENDPOINT_URL": endpoint, "PYTHONPATH": os.getcwd()}
    flags = ["--server", server.address, "--model", MODEL, "--output", url, "--scratch", str(scratch), *more]
    return subprocess.run([*COMMAND, str(slide), *flags], env=os.environ | where, capture_output=True, text=True, check=False)


def test_a_mask_in_a_bucket(endpoint: str, tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.tiff", paint(TRUTH), 0.5)
    scratch = tmp_path / "scratch"
    with FakeTriton(contract()) as server:
        missing = segment(endpoint, server, slide, "s3://bucket/masks", scratch)
        assert missing.returncode == 1
        assert "s3://bucket/masks/" in missing.stderr
        assert "The specified bucket does not exist" in missing.stderr
        assert "check the URL and the credentials" in " ".join(missing.stderr.split())
        sent = len(server.requests)
        _ask(f"{endpoint}/bucket", "PUT")
        again = segment(endpoint, server, slide, "s3://bucket/masks", scratch)
        assert (again.returncode, again.stderr.count("Error")) == (0, 0), again.stderr
        assert len(server.requests) == sent  # the first one had made the mask already
        skipped = segment(endpoint, server, slide, "s3://bucket/masks", scratch, "--skip-existing")
        assert "s.tiff: skipped, its mask is there" in skipped.stderr
        assert len(server.requests) == sent
    names = _listed(endpoint)
    assert {"masks/batch.json", "masks/index.html", "masks/s.geojson.gz", "masks/s.ome.zarr/zarr.json"} <= names
    _fetch(endpoint, names, tmp_path / "there")
    assert (read_label(tmp_path / "there" / "masks" / "s.ome.zarr").labels == TRUTH).all()
    assert not scratch.exists()


def _ask(url: str, method: str = "GET") -> bytes:
    signed = {
        "Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request"
    }  # moto reads whose it is, and checks no more
    with urllib.request.urlopen(urllib.request.Request(url, method=method, headers=signed)) as answer:
        content: bytes = answer.read()
    return content


def _listed(endpoint: str) -> set[str]:
    return set(re.findall("<Key>([^<]+)</Key>", _ask(f"{endpoint}/bucket?list-type=2").decode()))


def _fetch(endpoint: str, names: set[str], into: Path) -> None:
    for name in names:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        (into / name).write_bytes(_ask(f"{endpoint}/bucket/{name}"))
