"""Encrypted connections: which files are refused, and a client against servers that speak TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trustme

from clients import served_model
from clients.errors import ServerError
from clients.served_model import ServedModel
from clients.tls_files import TlsFiles
from serving.contract import PROBABILITIES
from serving.embedded import EmbeddedTriton
from serving.exposure import Exposure

MODEL, REPOSITORY = "default_segment", Path(__file__).parents[2] / "model_repository"


class Certificates:
    """An authority, a server's and a caller's certificate, and a stranger's authority, as files."""

    def __init__(self, folder: Path) -> None:
        authority, stranger = trustme.CA(), trustme.CA()
        self.ca, self.other_ca = folder / "ca.pem", folder / "other.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        stranger.cert_pem.write_to_path(str(self.other_ca))
        self.cert, self.key = _write(folder / "server", authority.issue_cert("127.0.0.1"))
        self.own_cert, self.own_key = _write(folder / "own", authority.issue_cert("me@triton.example"))


def _write(stem: Path, pair: trustme.LeafCert) -> tuple[Path, Path]:
    certificate, key = stem.with_suffix(".pem"), stem.with_suffix(".key")
    pair.cert_chain_pems[0].write_to_path(str(certificate))
    pair.private_key_pem.write_to_path(str(key))
    return certificate, key


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_a_certificate_and_its_key_belong_together(files: Certificates, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--tls-cert: expected --tls-key with it"):
        TlsFiles(certificate=files.own_cert)
    with pytest.raises(ValueError, match="--tls-key: expected --tls-cert with it"):
        TlsFiles(key=files.own_key)
    with pytest.raises(ValueError, match=r"--tls-ca .*none\.pem: expected a PEM file, found none"):
        TlsFiles(tmp_path / "none.pem")


def test_without_files_nothing_is_encrypted(files: Certificates) -> None:
    assert TlsFiles().channel == {}
    assert TlsFiles(files.ca).channel == {"ssl": True, "root_certificates": str(files.ca)}


@pytest.fixture(scope="module")
def server(files: Certificates) -> Iterator[EmbeddedTriton]:
    exposure = Exposure(
        tls_cert=files.cert, tls_key=files.key, tls_client_ca=files.ca, tls_own_cert=files.own_cert, tls_own_key=files.own_key
    )
    with EmbeddedTriton(REPOSITORY, [MODEL], exposure=exposure) as started:
        yield started


@pytest.mark.triton
@pytest.mark.slow
def test_tiles_through_mutual_tls(server: EmbeddedTriton, files: Certificates) -> None:
    with ServedModel(server.address, MODEL, TlsFiles(files.ca, files.own_cert, files.own_key)) as client:
        side = client.contract.task.tile_px
        tiles = np.full((2, side, side, 3), 255, dtype=np.uint8)
        ((tag, outputs),) = client.stream([("white", tiles)], 2)
    assert tag == "white"
    assert outputs[PROBABILITIES].shape[0] == 2


@pytest.mark.triton
@pytest.mark.slow
def test_who_does_not_know_the_server_or_is_not_known_to_it_gets_nothing(
    server: EmbeddedTriton, files: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_model, "_CONNECT_S", 3.0)
    for tls in (TlsFiles(), TlsFiles(files.ca), TlsFiles(files.other_ca, files.own_cert, files.own_key)):
        with pytest.raises(ServerError, match="where it speaks TLS, give --tls-ca"):
            ServedModel(server.address, MODEL, tls)
