"""Errors by kind: what a caller would do about each."""

from __future__ import annotations

import pytest
from tritonclient.utils import InferenceServerException

from benchmarks.bench.triton_target import error_kind


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        ("StatusCode.UNAVAILABLE", "Exceeds maximum queue size", "rejected"),
        ("StatusCode.UNAVAILABLE", "Request timeout expired", "rejected"),
        ("StatusCode.UNAVAILABLE", "failed to connect to all addresses", "away"),
        ("StatusCode.UNAVAILABLE", "This protocol is restricted", "failed"),
        ("StatusCode.INTERNAL", "in ensemble 'm': onnxruntime failed", "failed"),
        ("StatusCode.INVALID_ARGUMENT", "inference request batch-size must be <= 64", "failed"),
    ],
)
def test_errors_by_kind(status: str, message: str, kind: str) -> None:
    assert error_kind(InferenceServerException(message, status)) == kind


def test_no_answer_and_no_error_is_a_failure() -> None:
    assert error_kind(None) == "failed"
