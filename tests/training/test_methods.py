"""Every method passes the same conformance tests: shapes and ranges, the same seed, mirrored views, what is done anew, parity of its export."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from export.graphs import export_checkpoint
from export.wrapper import SegmentNet
from training.cam_kinds import CamOptions, averaged_class_maps
from training.checkpoint import Checkpoint, load
from training.dropout_attention import DropoutAttentionOptions
from training.encoder import normalize
from training.errors import EncoderError, RecipeError
from training.mosaic import MosaicOptions
from training.mutual import MutualOptions
from training.patches import write_patches
from training.refinement import RefineOptions
from training.schedule import Schedule
from training.stage_one import PsclOptions
from training.stage_two import StageTwoOptions
from training.tissue.patch import draw_patch
from training.train import METHODS, train
from training.train_config import Method, RefinementStage, SubcategoryOptions, TrainConfig

pytestmark = pytest.mark.slow

QUICK = Schedule("adamw", 1e-3, batch=4, steps=2)
TILE_PX = 128
OPTIONS: dict[Method, dict[str, object]] = {
    "pscl": {"pscl": PsclOptions(max_vectors=32)},
    "pistoseg": {"decoder": "unetplusplus", "segment": StageTwoOptions("binary_cross_entropy")},
    "arml": {"decoder": "pspnet", "keep": "mean", "mutual": MutualOptions(samples=8)},
    "sc_cam": {},
    "mlps": {
        "cam": CamOptions("grad_cam"),
        "cam_levels": (1,),
        "segment": StageTwoOptions(level_weights=(0.7, 0.3)),
        "dropout": DropoutAttentionOptions(start_epoch=0),
    },
}
STAGES: dict[Method, list[str]] = {
    "pscl": ["stage1", "pseudo_masks", "stage2"],
    "pistoseg": ["stage1", "mosaics", "preliminary", "refinement", "pseudo_masks", "stage2"],
    "arml": ["stage1", "pseudo_masks", "stage2"],
    "sc_cam": ["stage1", "subcategories1", "pseudo_masks", "stage2"],
    "mlps": ["stage1", "pseudo_masks", "pseudo_masks_1", "stage2"],
}


@dataclass
class Trained:
    """One run of a method."""

    config: TrainConfig
    checkpoint: Checkpoint
    times_ns: dict[str, int] = field(default_factory=dict)

    def done_anew(self, **changed: object) -> list[str]:
        """The stages that a run with other settings does in the same folder."""
        before = finished(self.config.output)
        train(dataclasses.replace(self.config, **changed))  # type: ignore[arg-type]
        after = finished(self.config.output)
        return [name for name, time_ns in after.items() if before.get(name) != time_ns]


def finished(output: Path) -> dict[str, int]:
    return {
        path.parent.name: path.stat().st_mtime_ns for path in sorted(output.glob("*/stage.json"), key=lambda path: path.stat().st_mtime_ns)
    }


def config_of(method: Method, data: Path, output: Path) -> TrainConfig:
    plain = TrainConfig(
        data=data,
        output=output,
        method=method,
        tile_px=TILE_PX,
        encoder="test_resnet",
        cam_stages=(2,),
        decoder_stages=(1, 2),
        decoder="fpn",
        decoder_width=8,
        stage1=QUICK,
        stage2=QUICK,
        preliminary=QUICK,
        mosaic=MosaicOptions((2, 2), TILE_PX // 2, count=6),
        refinement=RefinementStage((2, 3), (8, 8), 3, 8, QUICK),
        subcategory=SubcategoryOptions(2, 1),
    )
    return dataclasses.replace(plain, **OPTIONS[method])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "patches"
    write_patches(folder, 24, seed=3, processes=1)
    return folder


@pytest.fixture(scope="module", params=sorted(OPTIONS))
def trained(request: pytest.FixtureRequest, patches: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    config = config_of(request.param, patches, tmp_path_factory.mktemp(request.param) / "run")
    return Trained(config, load(train(config)))


def tiles(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.stack([draw_patch(100 + index, TILE_PX)[0] for index in range(count)])


def test_every_method_is_here() -> None:
    assert set(OPTIONS) == set(STAGES) == set(METHODS)


def test_networks_answer_in_shape_and_range(trained: Trained) -> None:
    checkpoint, task = trained.checkpoint, trained.checkpoint.task
    assert checkpoint.method == trained.config.method
    assert checkpoint.cam_network is not None
    assert checkpoint.segment_network is not None
    images = torch.from_numpy(tiles(2)).permute(0, 3, 1, 2)
    with torch.no_grad():
        maps, logits = checkpoint.cam_network(normalize(images, task.normalization.mean, task.normalization.std))
        labels, levels = SegmentNet(checkpoint.segment_network, task.normalization, checkpoint.segment_cell_px)(torch.from_numpy(tiles(2)))
    grid = TILE_PX // checkpoint.cam_cell_px
    assert (maps.shape, logits.shape) == ((2, 4, grid, grid), (2, 4))
    cells = TILE_PX // checkpoint.segment_cell_px
    assert (levels.shape, levels.dtype, labels.shape) == ((2, 5, cells, cells), torch.uint8, (2, TILE_PX, TILE_PX))
    assert (levels.int().sum(dim=1) - 255).abs().max() <= 3
    has_background = METHODS[trained.config.method].has_background
    assert checkpoint.segment_network.has_background == has_background
    assert bool((levels[:, 0] == 0).all()) == (not has_background)
    assert int(labels.min()) >= (0 if has_background else 1)


def test_maps_of_mirrored_images_are_mirrored_maps(trained: Trained) -> None:
    network = trained.checkpoint.cam_network
    assert network is not None
    images = torch.randn(2, 3, TILE_PX, TILE_PX, generator=torch.Generator().manual_seed(0))
    for axes in ((3,), (2,), (2, 3)):
        maps, logits = averaged_class_maps(network, images, CamOptions())
        turned, turned_logits = averaged_class_maps(network, images.flip(axes), CamOptions())
        torch.testing.assert_close(turned.flip(axes), maps, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(turned_logits, logits, atol=1e-4, rtol=1e-3)


def test_exports_with_parity(trained: Trained) -> None:
    graphs = export_checkpoint(trained.checkpoint, tiles(8))
    assert [graph.kind for graph in graphs] == ["segment", "cam"]


def test_the_same_seed_gives_the_same_networks(trained: Trained, tmp_path: Path) -> None:
    again = load(train(dataclasses.replace(trained.config, output=tmp_path)))
    for one, other in (
        (again.cam_network, trained.checkpoint.cam_network),
        (again.segment_network, trained.checkpoint.segment_network),
    ):
        assert one is not None
        assert other is not None
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_a_changed_setting_redoes_its_stage_and_what_depends_on_it(trained: Trained) -> None:
    stages = STAGES[trained.config.method]
    assert sorted(finished(trained.config.output)) == sorted(stages)
    assert trained.done_anew() == []
    last = dataclasses.replace(QUICK, steps=3)
    assert trained.done_anew(stage2=last) == ["stage2"]
    assert trained.done_anew(cam=CamOptions("grad_cam", flips=False), stage2=last) == (
        [] if trained.config.method == "pistoseg" else stages[stages.index("pseudo_masks") :]
    )
    independent = {"mosaics", "preliminary"}  # PistoSeg's mosaics need no classifier
    settings = {"cam": CamOptions("grad_cam", flips=False), "stage2": last}
    assert trained.done_anew(stage1=last, **settings) == [name for name in stages if name not in independent]
    if trained.config.method == "pistoseg":
        assert trained.done_anew(stage1=last, refine=RefineOptions(output="cam"), **settings) == ["pseudo_masks", "stage2"]
        assert trained.done_anew(stage1=last, refine=RefineOptions(cons=False), **settings) == ["refinement", "pseudo_masks", "stage2"]
        unrefined = trained.done_anew(stage1=last, refine=RefineOptions(output="none"), **settings)
        assert unrefined == ["pseudo_masks", "stage2"]  # the refinement stays where it is, and is not asked


def test_settings_that_do_not_fit_are_refused_before_anything_is_trained(patches: Path, tmp_path: Path) -> None:
    config = config_of("mlps", patches, tmp_path)
    with pytest.raises(RecipeError, match=r"--segment\.level-weights: expected 3, .* got \(0\.7, 0\.3\)"):
        dataclasses.replace(config, cam_levels=(0, 1))
    with pytest.raises(RecipeError, match=r"--cam-levels: expected a gradient --cam\.kind"):
        dataclasses.replace(config, cam=CamOptions())
    with pytest.raises(RecipeError, match="masks have no confidence"):
        dataclasses.replace(config, cam_levels=(), supervised=True, segment=StageTwoOptions("noise_reduced"))
    with pytest.raises(EncoderError, match="expected decoder stages of strides"):
        train(dataclasses.replace(config, decoder="mask2former"))
    assert not list(tmp_path.iterdir())
