"""Pre-training on a few images: it learns, goes on after an interruption as if there had been none, and its weights start stage 1."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from serving.tasks import get_task
from training.augment_views import photometric_view, spatial_view
from training.classifier import Classifier, ClassifierConfig
from training.encoder import Encoder, normalize
from training.errors import EncoderError, RecipeError
from training.fitting import Machine
from training.nt_xent import inter_image_loss, intra_image_loss
from training.pretrain import PretrainConfig, Pretraining, pretrain
from training.pretrain_cli import main
from training.schedule import Schedule
from training.tissue.patch import draw_patch

pytestmark = pytest.mark.slow
IMAGES = 16


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlabeled")
    for index in range(IMAGES):
        (folder / f"slide{index % 2}").mkdir(exist_ok=True)
        Image.fromarray(draw_patch(index, 96)[0]).save(folder / f"slide{index % 2}" / f"{index:02}.png")
    return folder


def configure(images: Path, output: Path, epochs: int = 3) -> PretrainConfig:
    schedule = Schedule("adamw", 3e-3, power=0.9, batch=8, epochs=epochs)
    return PretrainConfig(output, "test_resnet", data=(images,), tile_px=64, stage=3, schedule=schedule, machine=Machine(log="csv"))


def read_provenance(folder: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / "provenance.json").read_text())
    return content


def weights_of(path: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(path, weights_only=True)["histoserve.encoder"]
    return weights


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without any interruption."""
    return pretrain(configure(images, tmp_path_factory.mktemp("finished"))).parent


def test_the_losses_fall(images: Path, tmp_path: Path) -> None:
    pretrain(configure(images, tmp_path, epochs=10))
    header, *rows = [row.split(",") for row in (tmp_path / "pretraining" / "metrics.csv").read_text().splitlines()]
    for name in ("intra", "inter"):
        values = [float(row[header.index(name)]) for row in rows]
        assert np.mean(values[-4:]) < np.mean(values[:4])


def test_one_step_is_eq_4_1_and_its_gradients_reach_every_stage(images: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(configure(images, tmp_path), inter_weight=0.25, max_cells=3, seed=4)
    task = get_task(config.task)
    module = Pretraining(Encoder("test_resnet", (3,)), task, config, 1)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]  # no trainer here
    batch = torch.stack([torch.from_numpy(draw_patch(index, 64)[0]).permute(2, 0, 1) for index in range(4)])
    module.encoder.eval()
    for value in module.encoder.parameters():
        if not value.abs().sum():  # timm starts the last normalization of a block at 0, which lets no gradient into it in the first step
            nn.init.constant_(value, 0.5)
    loss = module.training_step(batch, 0)
    generator = torch.Generator().manual_seed((4 * 1_000_003) << 10)
    views = batch, photometric_view(batch, generator), spatial_view(batch, generator)
    own, photometric, spatial = (
        module.encoder(normalize(view, task.normalization.mean, task.normalization.std))[-1].detach() for view in views
    )
    intra, inter = intra_image_loss(own, photometric, 0.1, 3, generator), inter_image_loss(own, spatial, 0.1)
    assert float(loss.detach()) == pytest.approx(float(intra + 0.25 * inter), rel=1e-4)
    torch.autograd.backward(loss)
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in module.encoder.parameters())


def test_the_weights_start_stage_one(finished: Path) -> None:
    classifier = Classifier(ClassifierConfig("test_resnet", (2, 3), 4), weights=finished / "encoder.pt")
    encoder = Encoder("test_resnet", (2, 3))
    encoder.body.load_state_dict(weights_of(finished / "encoder.pt"))
    assert all(torch.equal(value, weights_of(finished / "encoder.pt")[key]) for key, value in classifier.encoder.body.state_dict().items())
    tile = torch.randn(2, 3, 64, 64)
    for own, expected in zip(classifier.eval().encoder(tile), encoder.eval()(tile), strict=True):
        assert torch.equal(own, expected)


def test_provenance_says_what_was_done_and_not_where(images: Path, finished: Path) -> None:
    provenance = read_provenance(finished)
    assert provenance["counts"] == {"images": IMAGES, "slides": 0, "tiles": 0, "tiles_without_tissue": 0}
    assert provenance["steps"] == 3 * IMAGES // 8
    losses = provenance["final_losses"]
    assert isinstance(losses, dict)
    assert all(0 < losses[name] < 20 for name in ("intra", "inter"))
    rest = json.dumps({key: value for key, value in provenance.items() if key != "command"})
    assert str(images.parent) not in rest
    assert str(finished.parent) not in rest


@pytest.mark.parametrize("last_step", [2, 5])
def test_a_killed_run_ends_as_if_it_had_not_been(
    images: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_step: int
) -> None:
    seen: list[int] = []
    step = Pretraining.training_step

    def record(module: Pretraining, batch: Tensor, batch_index: int) -> Tensor:
        if module.global_step == last_step and last_step not in seen:
            seen.append(last_step)
            raise RuntimeError("killed")
        seen.append(module.global_step)
        return step(module, batch, batch_index)

    monkeypatch.setattr(Pretraining, "training_step", record)
    with pytest.raises(RuntimeError, match="killed"):
        pretrain(configure(images, tmp_path))
    assert not (tmp_path / "encoder.pt").exists()
    path = pretrain(configure(images, tmp_path))
    last_epoch_end = last_step // 2 * 2  # two steps an epoch
    assert seen == [*range(last_step), last_step, *range(last_epoch_end, 6)]
    assert read_provenance(tmp_path)["steps"] == 6
    expected = weights_of(finished / "encoder.pt")
    for key, value in weights_of(path).items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


def test_a_finished_run_is_not_trained_again_and_another_is_refused(
    images: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pretraining, "training_step", lambda *_: pytest.fail("trained again"))
    config = configure(images, finished)
    before = (finished / "encoder.pt").read_bytes()
    assert pretrain(dataclasses.replace(config, machine=Machine(log="none"))) == finished / "encoder.pt"
    assert (finished / "encoder.pt").read_bytes() == before
    with pytest.raises(RecipeError, match="got other settings: remove the folder"):
        pretrain(dataclasses.replace(config, temperature=0.5))
    names = tmp_path / "names.txt"
    names.write_text("03\n")
    with pytest.raises(RecipeError, match="got other images"):
        pretrain(dataclasses.replace(config, exclude=names))


def test_a_budget_stops_the_schedule_and_never_prolongs_it(images: Path, tmp_path: Path) -> None:
    for budget, steps in ((1, 1), (100, 2)):
        config = dataclasses.replace(configure(images, tmp_path / str(budget), epochs=1), max_steps=budget)
        pretrain(config)
        assert read_provenance(tmp_path / str(budget))["steps"] == steps


def test_weights_that_lack_a_stage_are_refused(images: Path, tmp_path: Path) -> None:
    weights = pretrain(dataclasses.replace(configure(images, tmp_path), stage=1, max_steps=1))
    with pytest.raises(EncoderError, match=r"the file lacks .* up to the deepest stage"):
        Encoder("test_resnet", (3,), weights=weights)
    (tmp_path / "noise.pt").write_bytes(b"noise")
    with pytest.raises(EncoderError, match=r"noise\.pt, cannot read them"):
        Encoder("test_resnet", (3,), weights=tmp_path / "noise.pt")


def test_a_run_may_start_from_weights(images: Path, finished: Path, tmp_path: Path) -> None:
    schedule = Schedule("adamw", 0.0, batch=8, steps=1)
    config = dataclasses.replace(configure(images, tmp_path), weights=finished / "encoder.pt", schedule=schedule)
    trained, started = weights_of(pretrain(config)), weights_of(finished / "encoder.pt")
    assert all(torch.equal(trained[key], started[key]) for key in started if not key.endswith(("mean", "var", "tracked")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "--temperature"),
        ({"max_cells": 1}, "--max-cells"),
        ({"scale": 0.0}, "--scale"),
        ({"min_tissue": 1.5}, "--min-tissue"),
        ({"tile_px": 32, "stage": 4}, "at least 2×2 cells"),
    ],
)
def test_settings_that_cannot_train_are_refused(images: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        pretrain(dataclasses.replace(configure(images, tmp_path), **change))  # type: ignore[arg-type]


def test_diverged_training_leaves_no_weights(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Pretraining.training_step
    monkeypatch.setattr(Pretraining, "training_step", lambda *arguments: step(*arguments) * float("nan"))
    with pytest.raises(RecipeError, match=r"training diverged: lower --schedule\.learning-rate"):
        pretrain(dataclasses.replace(configure(images, tmp_path), max_steps=1))
    assert not (tmp_path / "encoder.pt").exists()


def test_the_command_says_what_it_reads_and_leaves_out(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = tmp_path / "names.txt"
    names.write_text("03\n07.png\n")
    flags = ["--encoder", "test_resnet", "--tile-px", "64", "--exclude", str(names), "--max-steps", "1", "--schedule.batch", "4"]
    assert main(["--data", str(images), "--output", str(tmp_path / "out"), *flags]) == 0
    printed = capsys.readouterr()
    assert "14 images; left out: 2 excluded" in printed.err
    assert printed.out == f"encoder: {tmp_path / 'out' / 'encoder.pt'}\n"
    assert main(["--data", str(tmp_path / "absent"), "--output", str(tmp_path / "other"), *flags]) == 1
    assert "absent: expected a folder" in capsys.readouterr().err
