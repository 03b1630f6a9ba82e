"""What may be opened how: the rules, certificates that do and do not fit, and what the real server then listens on."""

from __future__ import annotations

import datetime
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpcclient
import trustme
from tritonclient.utils import InferenceServerException

from serving.advisories import ADVISORIES, holes_text, open_holes
from serving.embedded import EmbeddedTriton
from serving.errors import ExposureError
from serving.exposure import Exposure, check_version, port_faults, warnings
from serving.port import free_port
from serving.sockets import Listener, listeners
from serving.tls import check_certificates

from . import tiny_release as tiny
from .processes import command_lines, with_word

EMBEDDED, FIXED = (2, 51, 0), (2, 71, 0)
TLS: dict[str, Any] = {"tls_cert": Path("cert.pem"), "tls_key": Path("key.pem")}
MUTUAL: dict[str, Any] = {**TLS, "tls_client_ca": Path("ca.pem"), "tls_own_cert": Path("own.pem"), "tls_own_key": Path("own.key")}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"address": "0.0.0.0"}, "--address 0.0.0.0: expected --tls-cert and --tls-key, got none: name them, or add --insecure"),
        ({"address": "10.1.2.3"}, "--address 10.1.2.3: expected --tls-cert and --tls-key"),
        ({"address": "0.0.0.0", **TLS, "http_port": 8000}, "--http-port: Triton's HTTP knows no TLS"),
        ({"address": "::1"}, "--address '::1': expected an IPv4 address"),
        ({"address": "example.org"}, "--address 'example.org': expected an IPv4 address"),
        ({"tls_cert": Path("c")}, "--tls-cert: expected --tls-key with it, got none"),
        ({"tls_key": Path("k")}, "--tls-key: expected --tls-cert with it, got none"),
        ({**TLS, "tls_client_ca": Path("a")}, "--tls-client-ca: expected --tls-own-cert and --tls-own-key with it"),
        ({**MUTUAL, "tls_cert": None, "tls_key": None}, "--tls-client-ca: expected --tls-cert and --tls-key with it"),
        ({"metrics_address": "0.0.0.0"}, "--metrics-address 0.0.0.0: expected a --metrics-port with it"),
    ],
)
def test_refused_flags(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Exposure(**values)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"http_port": 8000, "metrics_port": 8002},
        {"address": "127.0.0.2"},
        TLS,
        {"address": "0.0.0.0", **TLS},
        {"address": "10.1.2.3", **MUTUAL},
        {"address": "0.0.0.0", "insecure": True, "http_port": 8000},
        {"metrics_port": 8002, "metrics_address": "0.0.0.0"},
    ],
)
def test_allowed_flags(values: dict[str, Any]) -> None:
    check_version(Exposure(**values), FIXED)


def test_nothing_is_open_by_default() -> None:
    exposure = Exposure()
    assert exposure.ports(8001) == {"gRPC": ("127.0.0.1", 8001)}
    assert not exposure.opens_network
    assert not exposure.reloadable
    assert warnings(exposure, EMBEDDED) == []


def test_a_port_for_each() -> None:
    assert port_faults(Exposure(http_port=8000, metrics_port=8002), 8001) == []
    assert port_faults(Exposure(http_port=8001), 8001) == ["port 8001: expected a port for each of gRPC, HTTP and metrics, got it twice"]


@pytest.mark.parametrize("values", [{"address": "0.0.0.0", **TLS}, {"metrics_port": 8002, "metrics_address": "0.0.0.0"}])
def test_a_version_with_holes_is_not_opened_to_a_network(values: dict[str, Any]) -> None:
    with pytest.raises(
        ExposureError, match=r"Triton 2\.51\.0: expected at least 2\.71 \(container 26\.07\) for a network, it has 10 bulletins"
    ):
        check_version(Exposure(**values), EMBEDDED)
    with pytest.raises(ExposureError, match=r"Triton 2\.70\.9: .*1 bulletins of published holes: found externally"):
        check_version(Exposure(**values), (2, 70, 9))
    check_version(Exposure(**values, insecure=True), EMBEDDED)
    check_version(Exposure(**values), (2, 71))


def test_loopback_takes_any_version() -> None:
    check_version(Exposure(http_port=8000, metrics_port=8002, reloadable=True), EMBEDDED)


def test_model_control_is_loopback_only_where_it_runs_code() -> None:
    """CVE-2025-23316: no --insecure excuses it."""
    exposure = Exposure(address="0.0.0.0", **TLS, insecure=True, reloadable=True)
    with pytest.raises(ExposureError, match=r"expected at least 2\.60 \(container 25\.08\) for --reloadable beyond loopback"):
        check_version(exposure, (2, 59, 1))
    check_version(exposure, (2, 60, 0))


def test_tracing_only_where_it_is_sound() -> None:
    exposure = Exposure(trace_otlp="http://127.0.0.1:4318/v1/traces")
    with pytest.raises(
        ExposureError, match=r"Triton 2\.51\.0: expected at least 2\.57 for --trace-otlp, since older ones crash in tracing"
    ):
        check_version(exposure, EMBEDDED)
    check_version(exposure, (2, 57, 0))
    with pytest.raises(ValueError, match="expected a URL of OTLP over HTTP"):
        Exposure(trace_otlp="127.0.0.1:4317")


def test_what_is_open_is_said() -> None:
    plain = warnings(Exposure(address="0.0.0.0", insecure=True, http_port=8000), EMBEDDED)
    assert [line.split(":")[0] for line in plain[:1]] == ["gRPC on 0.0.0.0 in plain text"]
    assert "HTTP on 0.0.0.0 in plain text" in plain
    assert plain[-1].startswith("a Triton open to a network with 10 bulletins of published holes, CVSS 9.8")
    assert warnings(Exposure(address="0.0.0.0", **MUTUAL), FIXED) == []
    (one_sided,) = warnings(Exposure(address="0.0.0.0", **TLS), FIXED)
    assert "answers whoever reaches it" in one_sided
    (metrics,) = warnings(Exposure(metrics_port=8002, metrics_address="0.0.0.0"), FIXED)
    assert metrics.startswith("metrics on 0.0.0.0 in plain text")


def test_the_table_of_holes() -> None:
    assert [advisory.fixed_in for advisory in ADVISORIES] == sorted(advisory.fixed_in for advisory in ADVISORIES)
    assert [advisory.container for advisory in open_holes((2, 68, 0))] == ["26.05", "26.06", "26.07"]
    assert holes_text((2, 75, 0)) == ""


# ---- certificates


class Certificates:
    """An authority with a server's and a caller's certificate, and a stranger's, as files."""

    def __init__(self, folder: Path) -> None:
        authority, stranger = trustme.CA(), trustme.CA()
        self.folder = folder
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        self.cert, self.key = self.write("server", authority.issue_cert("triton.example", "127.0.0.1"))
        self.own_cert, self.own_key = self.write("own", authority.issue_cert("histoserve@triton.example"))
        self.other_cert, self.other_key = self.write("other", stranger.issue_cert("stranger@elsewhere.example"))
        long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        old = authority.issue_cert("triton.example", not_before=long_ago, not_after=long_ago + datetime.timedelta(days=1))
        self.old_cert, self.old_key = self.write("old", old)

    def write(self, name: str, pair: trustme.LeafCert) -> tuple[Path, Path]:
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        for position, blob in enumerate(pair.cert_chain_pems):
            blob.write_to_path(str(certificate), append=position > 0)
        pair.private_key_pem.write_to_path(str(key))
        return certificate, key

    def exposure(self, **values: Any) -> Exposure:
        return Exposure(**{"tls_cert": self.cert, "tls_key": self.key, **values})

    def mutual(self, **values: Any) -> Exposure:
        own = {"tls_client_ca": self.ca, "tls_own_cert": self.own_cert, "tls_own_key": self.own_key}
        return self.exposure(**{**own, **values})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_certificates_that_fit(files: Certificates) -> None:
    assert check_certificates(Exposure()) is None
    for exposure in (files.exposure(), files.mutual()):
        certificate = check_certificates(exposure)
        assert certificate is not None
        assert set(certificate.names) == {"triton.example", "127.0.0.1"}
        assert certificate.days_left > 300


def test_certificates_that_do_not_fit(files: Certificates, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for exposure, message in (
        (files.exposure(tls_cert=tmp_path / "none.pem"), "none.pem: expected a PEM file that can be read, it cannot .No such file"),
        (files.exposure(tls_cert=broken), "broken.pem and .*: expected a PEM certificate and its unencrypted key, they do not fit"),
        (files.exposure(tls_key=files.other_key), r"they do not fit \(key values mismatch\): name the pair that belongs together"),
        (
            files.exposure(tls_cert=files.old_cert, tls_key=files.old_key),
            r"valid now, callers would refuse it \(certificate has expired\): renew it",
        ),
        (files.mutual(tls_client_ca=broken), "broken.pem: expected PEM certificates, got something else"),
        (
            files.mutual(tls_own_cert=files.other_cert, tls_own_key=files.other_key),
            "the server would refuse it .*: name one of that authority",
        ),
    ):
        with pytest.raises(ExposureError, match=message):
            check_certificates(exposure)


def test_an_encrypted_key_is_told_apart(files: Certificates, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    how = serialization.BestAvailableEncryption(b"word")
    encrypted.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
    with pytest.raises(ExposureError, match=r"unencrypted key, they do not fit \(the key is encrypted\)"):
        check_certificates(files.exposure(tls_key=encrypted))


def test_a_certificate_without_a_name(files: Certificates) -> None:
    certificate, key = files.write("nameless", trustme.CA().issue_cert(common_name="triton"))
    with pytest.raises(ExposureError, match="expected a subjectAltName with the name callers use, it has none"):
        check_certificates(files.exposure(tls_cert=certificate, tls_key=key))


# ---- the real server


def opened_by(server: EmbeddedTriton) -> list[Listener]:
    """What the whole process group of the server listens on."""
    folder = with_word("watchdog.py")[server.pid].split()[-2]
    group = set(with_word(folder))
    return [listener for listener in listeners() if listener.pid in group]


def status_of(address: str, path: str, **headers: str) -> int:
    request = urllib.request.Request(f"http://{address}{path}", headers=headers, method="POST" if "index" in path else "GET")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return int(error.code)


@pytest.mark.triton
def test_by_default_one_port_on_loopback(server: EmbeddedTriton) -> None:
    (opened,) = opened_by(server)
    assert f"{opened.address}:{opened.port}" == server.address
    assert opened.is_loopback


@pytest.mark.triton
def test_the_secret_is_in_tritons_own_argv_alone(server: EmbeddedTriton) -> None:
    (secret,) = server.admin_headers.values()
    holders = {pid: line.split()[0] for pid, line in command_lines().items() if secret in line}
    assert [Path(program).name for program in holders.values()] == ["tritonserver"]
    folder = Path(with_word("watchdog.py")[server.pid].split()[-2])
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.triton
def test_http_and_metrics_on_loopback_with_the_admin_protocols_shut(repository: Path, tmp_path: Path, server: EmbeddedTriton) -> None:
    exposure = Exposure(http_port=free_port(), metrics_port=free_port())
    log = tmp_path / "triton.log"
    (other_secret,) = server.admin_headers.values()
    with EmbeddedTriton(repository, [tiny.ENTRY], exposure=exposure, log_path=log) as opened:
        assert all(listener.is_loopback for listener in opened_by(opened))
        grpc_port = int(opened.address.split(":")[1])
        assert {listener.port for listener in opened_by(opened)} == {grpc_port, exposure.http_port, exposure.metrics_port}
        http = f"127.0.0.1:{exposure.http_port}"
        (secret,) = opened.admin_headers.values()
        assert status_of(http, "/v2/health/ready") == 200
        assert status_of(http, "/v2/repository/index") == 403
        assert status_of(http, "/v2/models/stats") == 403
        assert status_of(http, "/v2/repository/index", admin=other_secret) == 403  # each start has its own
        assert status_of(http, "/v2/repository/index", admin=secret) == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{exposure.metrics_port}/metrics", timeout=10) as answer:
            metrics = answer.read().decode()
        assert 'nv_inference_request_summary_us{model="tiny_r1_segment_net",version="1",quantile="0.99"}' in metrics
        assert secret not in log.read_text() + metrics


@pytest.mark.triton
@pytest.mark.usefixtures("triton")
def test_tls(repository: Path, files: Certificates) -> None:
    """The server's own readiness and canary went through it; a caller needs the authority, one without TLS gets nothing."""
    with EmbeddedTriton(repository, [tiny.RULE_STEP], exposure=files.exposure()) as server:
        assert ready(server.address, ssl=True, root_certificates=str(files.ca))
        assert not ready(server.address)


@pytest.mark.triton
@pytest.mark.usefixtures("triton")
def test_mutual_tls(repository: Path, files: Certificates) -> None:
    with EmbeddedTriton(repository, [tiny.ENTRY], exposure=files.mutual()) as server:
        known: dict[str, Any] = {"ssl": True, "root_certificates": str(files.ca)}
        assert ready(server.address, **known, certificate_chain=str(files.own_cert), private_key=str(files.own_key))
        assert not ready(server.address, **known)
        assert not ready(server.address, **known, certificate_chain=str(files.other_cert), private_key=str(files.other_key))


@pytest.mark.triton
@pytest.mark.usefixtures("triton")
def test_a_bad_certificate_is_told_before_the_start(repository: Path, files: Certificates) -> None:
    exposure = files.exposure(tls_cert=files.old_cert, tls_key=files.old_key)
    with pytest.raises(ExposureError, match="has expired"), EmbeddedTriton(repository, [tiny.RULE_STEP], exposure=exposure):
        pass


@pytest.mark.triton
@pytest.mark.usefixtures("triton")
def test_the_embedded_triton_is_not_opened_to_a_network(repository: Path, files: Certificates) -> None:
    exposure = files.exposure(address="0.0.0.0")
    with (
        pytest.raises(ExposureError, match=r"Triton 2\.51\.0: expected at least 2\.71"),
        EmbeddedTriton(repository, [tiny.RULE_STEP], exposure=exposure),
    ):
        pass


def ready(address: str, **how: Any) -> bool:
    with grpcclient.InferenceServerClient(address, **how) as client:
        try:
            return bool(client.is_server_ready(client_timeout=5))
        except InferenceServerException:
            return False
