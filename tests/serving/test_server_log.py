"""Triton's log, as 2.51 wrote it, made into a reason."""

from __future__ import annotations

from serving.server_log import end_reason, failure_reason, is_port_taken

FAILED_MODEL = """\
I1121 04:14:20.533793 7600 model_lifecycle.cc:839] "successfully loaded 'tiny_r1_segment_labels'"
E1121 04:14:20.882707 7600 model_lifecycle.cc:642] "failed to load 'net' version 1: Internal: broken graph"
E1121 04:14:20.934820 7600 model_repository_manager.cc:703] "Invalid argument: ensemble 'whole' depends on 'net' which has no loaded version."
| Model  | Version | Status                                |
| labels | 1       | READY                                 |
| net    | 1       | UNAVAILABLE: Internal: broken graph   |
|        |         | At:                                   |
error: creating server: Internal - failed to load all models
"""
PORT = """\
E1121 04:14:11.138915 7448 main.cc:245] "failed to start GRPC service: Unavailable - Socket '127.0.0.1:58811' already in use "
"""


def test_names_the_models_that_failed() -> None:
    assert failure_reason(FAILED_MODEL) == "model 'net': Internal: broken graph"
    assert not is_port_taken(FAILED_MODEL)


def test_falls_back_to_errors_then_to_the_end() -> None:
    assert failure_reason('E1121 04:14:20.1 7 main.cc:2] "no space"\nI1121 04:14:20.2 7 a.cc:1] "bye"') == "no space"
    assert failure_reason("tritonserver: error while loading shared libraries: libb64.so.0d") == (
        "tritonserver: error while loading shared libraries: libb64.so.0d"
    )


def test_knows_a_taken_port() -> None:
    assert is_port_taken(PORT)


def test_a_long_reason_is_cut() -> None:
    assert len(failure_reason('E1121 04:14:20.1 7 main.cc:2] "' + "x" * 5000)) == 1200


def test_how_a_ready_server_ended() -> None:
    """The watchdog's last line counts, not the errors of the start."""
    assert end_reason(FAILED_MODEL + "histoserve: tritonserver ended by SIGSEGV\n") == "it ended by SIGSEGV"
    assert end_reason(FAILED_MODEL) == "it ended without a word"
    assert end_reason("") == "it ended without a word"
