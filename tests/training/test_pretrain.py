"""Pre-training on a few images: it learns, its weights start stage 1, and what may not be seen is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.augment_views import photometric_view, spatial_view
from training.classifier import Classifier, ClassifierConfig
from training.encoder import Encoder
from training.errors import DataError, EncoderError
from training.fitting import Machine
from training.pretrain import PretrainConfig, pretrain
from training.schedule import Schedule
from training.tissue.patch import draw_patch
from training.unlabeled import UnlabeledDataset, list_unlabeled

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlabeled")
    for index in range(16):
        (folder / f"slide{index % 2}").mkdir(exist_ok=True)
        Image.fromarray(draw_patch(index, 96)[0]).save(folder / f"slide{index % 2}" / f"{index:02}.png")
    return folder


def config(images: Path, output: Path, **changes: object) -> PretrainConfig:
    return PretrainConfig(
        data=(images,),
        output=output,
        encoder="test_resnet",
        tile_px=64,
        stage=3,
        schedule=Schedule("adamw", 3e-3, power=0.0, batch=8, epochs=12),
        machine=Machine(log="csv"),
        **changes,  # type: ignore[arg-type]
    )


def test_the_losses_fall_and_the_weights_start_stage_one(images: Path, tmp_path: Path) -> None:
    weights = pretrain(config(images, tmp_path))
    rows = (tmp_path / "pretraining" / "metrics.csv").read_text().splitlines()
    inter = [float(row.split(",")[rows[0].split(",").index("inter")]) for row in rows[1:]]
    assert np.mean(inter[-4:]) < np.mean(inter[:4])
    classifier = Classifier(ClassifierConfig("test_resnet", (2, 3), 4), weights=weights)
    state = torch.load(weights, weights_only=True)["histoserve.encoder"]
    for key, value in classifier.encoder.body.state_dict().items():
        assert torch.equal(value, state[key])
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    assert provenance["images"] == 16
    assert str(tmp_path) not in json.dumps({key: value for key, value in provenance.items() if key != "command"})


def test_weights_that_lack_a_stage_are_refused(images: Path, tmp_path: Path) -> None:
    shallow = PretrainConfig(
        data=(images,), output=tmp_path, encoder="test_resnet", tile_px=64, stage=1, schedule=Schedule("adamw", batch=8, steps=1)
    )
    weights = pretrain(shallow)
    with pytest.raises(EncoderError, match=r"the file lacks .* up to the deepest stage"):
        Encoder("test_resnet", (3,), weights=weights)
    (tmp_path / "noise.pt").write_bytes(b"noise")
    with pytest.raises(EncoderError, match=r"noise\.pt, cannot read them"):
        Encoder("test_resnet", (3,), weights=tmp_path / "noise.pt")


def test_photometric_views_leave_things_where_they_are_and_spatial_views_do_not_recolor() -> None:
    torch.manual_seed(0)
    blocks = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    blocks[:, :, 16:48, 16:48] = torch.tensor([200, 60, 120], dtype=torch.uint8).view(3, 1, 1)
    photometric = photometric_view(blocks).float().mean(1)
    inside, outside = photometric[:, 20:44, 20:44], photometric[:, :12]
    assert (inside.flatten(1).min(1).values > outside.flatten(1).max(1).values).all()
    spatial = spatial_view(blocks)
    assert any((view != block).any() for view, block in zip(spatial, blocks, strict=True))
    middle = spatial[:, :, 30:34, 30:34]
    assert (middle == torch.tensor([200, 60, 120], dtype=torch.uint8).view(1, 3, 1, 1)).all()


def test_what_is_excluded_is_never_seen(images: Path, tmp_path: Path) -> None:
    exclude = tmp_path / "test_images.txt"
    exclude.write_text("03\n07\n")
    listed = list_unlabeled([images], exclude)
    assert len(listed) == 14
    assert not {"03", "07"} & {path.stem for path in listed}
    exclude.write_text("no such image\n")
    with pytest.raises(DataError, match="found none called 'no such image'"):
        list_unlabeled([images], exclude)
    with pytest.raises(DataError, match="expected a folder of images"):
        list_unlabeled([tmp_path / "absent"], None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected images"):
        list_unlabeled([tmp_path / "empty"], None)


def test_crops_have_the_tile_s_size_whatever_the_image_s(tmp_path: Path) -> None:
    for name, size in (("small", (40, 30)), ("large", (200, 100)), ("flat", (200, 30))):
        Image.fromarray(np.full((size[1], size[0], 3), 7, np.uint8)).save(tmp_path / f"{name}.png")
    dataset = UnlabeledDataset(list_unlabeled([tmp_path], None), 64)
    for index in range(3):
        assert dataset[index].shape == (3, 64, 64)
        assert dataset[index].dtype == torch.uint8
        assert (dataset[index] == 7).all()
