"""Whether serving would work here, found out without starting a server: everything is looked at, also behind a failure. Prints nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from .canary import CANARY_FILE, canary_contracts, read_canary, run_canary
from .check import VERSION, check_repository, entry_names
from .doctor_machine import examine_machine
from .doctor_triton import examine_exposure, examine_installation
from .errors import RepositoryError, StartError
from .findings import Finding, Question, failure, judged
from .modelconfig import Config, ModelConfig
from .tls import check_certificates, own_connection

RELEASE_FILE = "release.json"  # beside the frozen ensemble; written by `export`
_ANSWER_S = 5.0


def examine(question: Question, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Installation, machine, repository, in this order; about two seconds."""
    repository, configs = examine_repository(question)
    yield from examine_installation(question, configs, environment)
    yield from examine_machine(question, configs, environment)
    yield from examine_exposure(question.exposure)
    yield from repository


def examine_repository(question: Question) -> tuple[list[Finding], dict[str, Config]]:
    """The wanted models; their configurations are empty where they cannot be read."""
    try:
        models = question.models or entry_names(question.repository)
        configs = check_repository(question.repository, models)
    except RepositoryError as error:
        return [failure("repository", error)], {}
    found = f"{', '.join(models)}: {len(configs)} models fit together"
    findings = [Finding("repository", "OK", found)]
    for name in dict.fromkeys(contract.release for contract in canary_contracts(configs.values()).values()):
        findings.append(judged(f"release {name}", partial(_release, question.repository, name, configs)))
    return findings, configs


def _release(repository: Path, name: str, configs: Mapping[str, Config]) -> str:
    """The release's own records: its canary can be read, and its graphs are those that were exported."""
    read_canary(repository / name / CANARY_FILE)
    digests = _digests(repository / name / RELEASE_FILE)
    if digests is None:
        return f"canary there; no {RELEASE_FILE} to compare the graphs with"
    served = [config for config in configs.values() if isinstance(config, ModelConfig) and config.name in digests]
    for config in served:
        path = repository / config.name / VERSION / config.file_name
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digests[config.name]:
                raise RepositoryError(f"{path}: expected the graph that was exported, its checksum differs: export the model again")
    return f"canary there; {len(served)} graphs as exported"


def _digests(path: Path) -> dict[str, str] | None:
    try:
        digests = json.loads(path.read_text(encoding="utf-8"))["sha256"]
        return {str(model): str(digest) for model, digest in digests.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RepositoryError(f"{path}: expected the notes of an export, cannot read them ({error}): export the model again") from error


def examine_running(question: Question) -> Iterator[Finding]:
    """The server that runs with these flags: is it ready, and are its values those of the repository? For probes; starts nothing."""
    findings, configs = examine_repository(question)
    yield from findings
    if configs:
        yield judged("server", lambda: _ask(question, configs))


def _ask(question: Question, configs: Mapping[str, Config]) -> str:
    connection = own_connection(question.exposure, question.port, check_certificates(question.exposure))
    contracts = canary_contracts(configs.values())
    with grpcclient.InferenceServerClient(**connection) as client:
        try:
            ready = client.is_server_ready(client_timeout=_ANSWER_S)
        except InferenceServerException as error:
            raise StartError(
                f"{connection['url']}: expected a Triton, none answers ({error.message()}): start it, or look at its log"
            ) from error
        if not ready:
            raise StartError(f"{connection['url']}: expected a Triton that is ready, it says it is not: look at its log")
        for contract in contracts.values():
            run_canary(client, question.repository, contract)
    return f"{connection['url']}: ready; right values from {', '.join(contracts)}"
