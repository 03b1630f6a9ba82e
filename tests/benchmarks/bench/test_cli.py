"""The sub-commands: found, imported only when asked for, and how they end."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from benchmarks.bench import cli
from benchmarks.bench.command_line import command_of, settings_of
from benchmarks.bench.peers_cli import Flags as PeersFlags
from benchmarks.bench.server_cli import Flags, as_line
from benchmarks.bench.slide_cli import Flags as SlideFlags

from .result_contents import load_point


def test_help_names_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("server", "limits", "report"):
        assert f"  {name} " in shown


def test_an_unknown_name_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["servers"]) == 2
    assert "unknown sub-command 'servers'" in capsys.readouterr().err


def test_a_sub_command_that_is_not_here_is_not_offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(cli._KNOWN, "absent", "never")
    assert "absent" not in cli.subcommands()
    assert cli.main(["absent"]) == 2
    capsys.readouterr()


def test_only_what_is_asked_for_is_imported() -> None:
    code = (
        "import sys; from benchmarks.bench.cli import main; main(['--help']);"
        "print(sorted({'matplotlib', 'tritonclient', 'psutil', 'onnx', 'benchmarks.bench.server_cli'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def without(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name}", name="matplotlib")

    monkeypatch.setattr(importlib, "import_module", without)
    assert cli.main(["report"]) == 1
    assert "pip install 'histoserve[bench]'" in capsys.readouterr().err


_MEASURING = """
import dataclasses, importlib, sys, types
from benchmarks.bench import cli
from benchmarks.bench.peers_tree import measure_command

@dataclasses.dataclass(frozen=True)
class Flags:
    pass

def run(flags):
    measure_command([sys.executable, "-c", "import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'w')); time.sleep(600)", sys.argv[1]])

importlib.import_module = lambda name: types.SimpleNamespace(Flags=Flags, run=run)
sys.exit(cli.main(["report"]))
"""


@pytest.mark.slow
def test_what_is_measured_does_not_outlive_a_run_that_is_terminated(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    process = subprocess.Popen([sys.executable, "-c", _MEASURING, str(told)], stderr=subprocess.PIPE, text=True)
    while not (told.is_file() and told.read_text().endswith("\n")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    complaint = process.communicate(timeout=60)[1]
    assert (process.returncode, complaint) == (130, "histoserve bench report: interrupted\n")
    assert not psutil.pid_exists(int(told.read_text()))


def test_a_known_error_is_a_line_and_a_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "--results", str(tmp_path)]) == 1
    assert "histoserve bench report:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag", [["--seconds", "0"], ["--loads", "1.0"], ["--concurrency", "0"], ["--slo-ms", "-1"], ["--slo-percentile", "100"]]
)
def test_flags_out_of_range_are_wrong_usage(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["server", *flag])
    assert "expected" in capsys.readouterr().err


def test_a_result_names_the_command_that_makes_it_again() -> None:
    flags = Flags("demo", output=Path("o.json"), concurrency=(1, 2), slo_ms=50.0, fresh=True)
    assert command_of("server", flags) == "histoserve bench server demo --output o.json --concurrency 1 2 --slo-ms 50.0"
    assert command_of("server", Flags()) == "histoserve bench server default"
    slides = SlideFlags((Path("a b.svs"), Path("c.svs")), large=True, overlaps=(0.5,))
    assert command_of("slide", slides, "slides") == "histoserve bench slide 'a b.svs' c.svs --large --overlaps 0.5"
    assert command_of("peers", PeersFlags(Path("s.tiff"), rounds=2)) == "histoserve bench peers --slide s.tiff --rounds 2"
    settings = settings_of(flags)
    assert {"output", "fresh"}.isdisjoint(settings)
    assert settings["repository"] == "model_repository"


def test_a_point_is_a_line() -> None:
    line = as_line(load_point("closed 4", "closed", 52.0, 20.0))
    assert "52.0 tiles/s" in line
    assert "p50 20.0 ms" in line
    assert "p99 -" in line
    assert "rejected 1" in line
    assert "skipped: why" in as_line({"name": "priority", "skipped": "why"})
