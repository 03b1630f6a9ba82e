"""Headers for every request to a server, such as a token, as a file: other users read command lines. Knows no channel and no server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonclient.grpc import InferenceServerClientPlugin

from .errors import HeaderFileError

_NAME = re.compile(r"[a-z0-9_.-]+")  # what gRPC's metadata takes; it knows no capitals
_VALUE = re.compile(r"[\x20-\x7e]+")


def read_headers(path: Path) -> dict[str, str]:
    """A file of lines `name: value`, e.g. `authorization: Bearer …`; empty lines and those that begin with # are left aside.

    Returns:
        By name, in small letters.

    Raises:
        HeaderFileError: it cannot be read or says something else. The message tells the line's number and never its text, which may be a secret.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise HeaderFileError(f"--headers {path}: expected a file of lines `name: value`, cannot read it: {reason}") from error
    headers: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            name, value = _parse(line, f"--headers {path}, line {number}")
            if name in headers:
                raise HeaderFileError(
                    f"--headers {path}, line {number}: expected each name once, this one is there before: remove one of them"
                )
            headers[name] = value
    if not headers:
        raise HeaderFileError(f"--headers {path}: expected at least one line `name: value`, got none")
    return headers


def _parse(line: str, where: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    name, value = name.strip().lower(), value.strip()
    if not (colon and _NAME.fullmatch(name) and _VALUE.fullmatch(value)):
        raise HeaderFileError(f"{where}: expected `name: value` in ASCII, e.g. `authorization: Bearer …`, got something else")
    if name.startswith("grpc-") or name.endswith("-bin"):
        raise HeaderFileError(
            f"{where}: expected a name that does not begin with grpc- and does not end with -bin: gRPC keeps these for itself"
        )
    return name, value


class SendHeaders(InferenceServerClientPlugin):  # type: ignore[misc]  # tritonclient has no types
    """What tritonclient's `register_plugin` takes: puts headers on every request, whoever makes it."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = dict(headers)

    def __call__(self, request: Any) -> None:
        """Request: tritonclient's, whose `headers` are a dict or None."""
        request.headers = {**(request.headers or {}), **self._headers}
