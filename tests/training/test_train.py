"""The train command: an interrupted run goes on, a finished stage is not trained again, and masks stay closed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.checkpoint import load
from training.errors import DataError, RecipeError
from training.fitting import total_steps
from training.patches import write_patches
from training.schedule import Schedule
from training.train import train
from training.train_config import TrainConfig

pytestmark = pytest.mark.slow

FLAGS = [
    *("--encoder", "test_resnet", "--cam-stages", "2", "--decoder-stages", "1", "2", "--decoder", "fpn", "--decoder-width", "8"),
    *("--stage1.optimizer", "adamw", "--stage1.learning-rate", "0.001", "--stage1.batch", "8", "--stage1.epochs", "3"),
    *("--stage2.batch", "8", "--stage2.epochs", "1", "--pscl.max-vectors", "64"),
]


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "patches"
    write_patches(folder, 24, seed=3, processes=1)
    return folder


def start(data: Path, output: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "histoserve", "train", "--data", str(data), "--output", str(output), *FLAGS, *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def epochs_of(lines: str) -> list[str]:
    return [line.split("  ")[0] + " " + line.split("  ")[1] for line in lines.splitlines() if "  epoch " in line]


def test_a_killed_run_goes_on_and_what_is_done_is_not_done_again(patches: Path, tmp_path: Path) -> None:
    first = start(patches, tmp_path / "run")
    assert first.stderr is not None
    with first, first.stderr:
        for line in first.stderr:
            if "epoch 2/3" in line:
                first.send_signal(signal.SIGKILL)
                break
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    with start(patches, tmp_path / "run") as second:
        _, lines = second.communicate()
    assert second.returncode == 0, lines
    # The second epoch's checkpoint may not have reached the disk when the process was killed.
    assert epochs_of(lines)[-2:] == ["stage1 epoch 3/3", "stage2 epoch 1/1"]
    assert "stage1 epoch 1/3" not in epochs_of(lines)
    checkpoint = load(tmp_path / "run" / "checkpoint.pt")
    assert checkpoint.cam_network is not None
    assert checkpoint.provenance["patches"] == 24
    curve = (tmp_path / "run" / "stage2" / "metrics.csv").read_text()
    assert curve.startswith("cross_entropy,epoch,step")


def test_the_upper_bound_learns_the_masks(patches: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        data=patches,
        output=tmp_path,
        encoder="test_resnet",
        decoder_stages=(1, 2),
        decoder="fpn",
        decoder_width=8,
        stage2=Schedule("adamw", 1e-3, batch=8, steps=4),
        supervised=True,
    )
    checkpoint = load(train(config))
    assert (checkpoint.method, checkpoint.cam_network) == ("supervised", None)
    assert not (tmp_path / "pseudo_masks").exists()
    bare = tmp_path / "bare"
    shutil.copytree(patches, bare, ignore=shutil.ignore_patterns("masks"))
    with pytest.raises(DataError, match="--supervised expects a mask for every patch, found none for 24"):
        train(TrainConfig(data=bare, output=tmp_path / "out", supervised=True))


def test_the_same_seed_gives_the_same_network(patches: Path, tmp_path: Path) -> None:
    def run(name: str) -> dict[str, torch.Tensor]:
        config = TrainConfig(
            data=patches,
            output=tmp_path / name,
            encoder="test_resnet",
            decoder_stages=(1, 2),
            decoder="fpn",
            decoder_width=8,
            stage2=Schedule("adamw", 1e-3, batch=8, steps=3),
            supervised=True,
            seed=5,
        )
        network = load(train(config)).segment_network
        assert network is not None
        return network.state_dict()

    first, second = run("a"), run("b")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_steps_take_the_place_of_epochs() -> None:
    assert total_steps(100, Schedule(batch=16, epochs=5), "stage1") == 30
    assert total_steps(100, Schedule(batch=16, steps=7), "stage1") == 7
    with pytest.raises(RecipeError, match=r"at least one batch of 16 patches, got 15: .*--stage1\.batch"):
        total_steps(15, Schedule(batch=16), "stage1")
    with pytest.raises(RecipeError, match="at least 1 epoch or step"):
        total_steps(100, Schedule(epochs=0), "stage2")
