"""Images without labels: what is read, what may not be seen, and tiles of slides at the right place and scale. Nothing is left out silently."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.errors import DataError
from training.slides import write_pyramid
from training.unlabeled import SlideTile, UnlabeledDataset, cut_tiles, find_unlabeled, read_tile

PINK, GLASS = (200, 60, 120), (245, 245, 245)
REAL_SLIDES = Path(__file__).parents[3] / "shared" / "data" / "slides"


def save(path: Path, width: int = 40, height: int = 30, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 7, np.uint8)).convert(mode).save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for name in ("01.png", "02.jpg", "below/03.png", "below/03_x00056_y00112.png", "below/04.TIF"):
        save(folder / name)
    (folder / "labels.csv").write_text("image\n")
    return folder


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600×500 px at 0.5 µm: tissue in x 256…511, y 128…383, with its top left quarter of another color."""
    rgb = np.full((500, 600, 3), GLASS, np.uint8)
    rgb[128:384, 256:512] = PINK
    rgb[128:256, 256:384] = (90, 40, 160)
    path = tmp_path_factory.mktemp("slides") / "case.tif"
    write_pyramid(path, rgb, 0.5)
    return path


def exclude(tmp_path: Path, *names: str) -> Path:
    path = tmp_path / "evaluation.txt"
    path.write_text("\n".join(names) + "\n")
    return path


def test_images_are_found_at_any_depth_and_other_files_are_counted(images: Path) -> None:
    found = find_unlabeled([images, images / "below"], [], None)
    assert [path.name for path in found.images] == ["01.png", "02.jpg", "03.png", "03_x00056_y00112.png", "04.TIF"]  # each once
    assert (found.excluded, found.other_files) == ([], {".csv": 1})


@pytest.mark.parametrize("name", ["03", "03.png"])
def test_what_is_excluded_is_never_seen_nor_are_its_patches(images: Path, tmp_path: Path, name: str) -> None:
    found = find_unlabeled([images], [], exclude(tmp_path, name, "01"))
    kept = {path.stem for path in found.images}
    assert not kept & {"01", "03"}
    assert "03" in {path.stem for path in found.excluded}
    assert len(found.images) + len(found.excluded) == 5


def test_an_excluded_image_takes_its_patches_with_it(images: Path, tmp_path: Path) -> None:
    assert [path.stem for path in find_unlabeled([images], [], exclude(tmp_path, "03")).images] == ["01", "02", "04"]


def test_excluded_names_that_are_nowhere_are_an_error(images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found none called '05'"):
        find_unlabeled([images], [], exclude(tmp_path, "01", "05"))
    with pytest.raises(DataError, match=r"absent\.txt: expected a text file"):
        find_unlabeled([images], [], tmp_path / "absent.txt")


@pytest.mark.parametrize("mode", ["P", "L", "RGBA"])
def test_files_that_are_no_rgb_images_are_named(images: Path, tmp_path: Path, mode: str) -> None:
    save(images / "mask.png", mode=mode)
    with pytest.raises(DataError, match=rf"mask\.png: expected an RGB image, got mode {mode}"):
        find_unlabeled([images], [], None)
    assert len(find_unlabeled([images], [], exclude(tmp_path, "mask")).images) == 5


def test_broken_and_misplaced_files_are_named(images: Path, tmp_path: Path) -> None:
    (images / "broken.png").write_bytes(b"noise")
    with pytest.raises(DataError, match=r"broken\.png: expected a readable image"):
        find_unlabeled([images], [], None)
    (images / "broken.png").rename(images / "case.svs")
    with pytest.raises(DataError, match=r"case\.svs: expected an image, found a whole slide: .*--slides"):
        find_unlabeled([images], [], None)
    (images / "case.svs").unlink()
    (images / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="found a link, which is not followed"):
        find_unlabeled([images], [], None)


def test_no_images_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: expected a folder"):
        find_unlabeled([tmp_path / "absent"], [], None)
    with pytest.raises(DataError, match="expected images or slides, found none"):
        find_unlabeled([tmp_path], [], None)
    with pytest.raises(DataError, match="no folder: expected images or slides"):
        find_unlabeled([], [], None)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("width", "height"), [(40, 30), (200, 100), (200, 30), (64, 64)])
def test_crops_have_the_tile_s_size_whatever_the_image_s(tmp_path: Path, width: int, height: int, scale: float) -> None:
    crop = UnlabeledDataset([save(tmp_path / "image.png", width, height)], 64, scale)[0]
    assert crop.shape == (3, 64, 64)
    assert crop.dtype == torch.uint8
    assert (crop == 7).all()


def test_crops_are_random_and_seeded_and_show_the_scale(tmp_path: Path) -> None:
    columns = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(200, axis=0)
    Image.fromarray(columns).save(tmp_path / "columns.png")

    def crops(scale: float, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        dataset = UnlabeledDataset([tmp_path / "columns.png"], 32, scale)
        return torch.stack([dataset[0] for _ in range(8)])

    assert torch.equal(crops(1.0, 0), crops(1.0, 0))
    assert len(set(crops(1.0, 0)[:, 0, 0, 0].tolist())) > 4
    assert (crops(1.0, 0)[:, :, :, -1].int() - crops(1.0, 0)[:, :, :, 0] == 31).all()
    span = (crops(0.5, 0)[:, :, :, -1].int() - crops(0.5, 0)[:, :, :, 0]).float()
    assert ((span - 62).abs() <= 1).all()  # an image of half the micrometers: twice the pixels on a tile


@pytest.mark.parametrize(("mpp", "side_l0"), [(0.5, 64), (1.0, 128)])
def test_tiles_of_slides_lie_on_tissue_and_show_it_at_the_wanted_scale(slide: Path, mpp: float, side_l0: int) -> None:
    tiles, without = cut_tiles(slide, 64, mpp, None, 0.5)
    expected = [(x, y) for y in range(128, 384, side_l0) for x in range(256, 512, side_l0)]
    assert [(tile.x_l0, tile.y_l0) for tile in tiles] == expected
    assert len(tiles) + without == (600 // side_l0) * (500 // side_l0)
    dataset = UnlabeledDataset([], 64, tiles=tiles)
    for index, tile in enumerate(tiles):
        rgb = dataset[index]
        is_quarter = tile.x_l0 < 384 and tile.y_l0 < 256
        color = torch.tensor((90, 40, 160) if is_quarter else PINK).view(3, 1, 1)
        assert rgb.shape == (3, 64, 64)
        assert ((rgb[:, 8:-8, 8:-8] - color).abs() <= 6).all()  # JPEG bleeds over the edges


def test_the_scale_may_be_given_for_slides_that_do_not_say(slide: Path) -> None:
    tiles, _ = cut_tiles(slide, 64, 1.0, 0.25, 0.5)
    assert (tiles[0].width_l0, tiles[0].height_l0) == (256, 256)
    assert read_tile(tiles[0], 64).shape == (64, 64, 3)


def test_tiles_beyond_the_slide_are_white_and_damage_is_named(slide: Path, tmp_path: Path) -> None:
    assert (read_tile(SlideTile(slide, 10_000, 10_000, 64, 64), 64) == 255).all()
    (tmp_path / "noise.svs").write_bytes(b"noise")
    with pytest.raises(DataError, match=r"noise\.svs: expected a whole slide"):
        cut_tiles(tmp_path / "noise.svs", 64, 1.0, None, 0.5)


def test_slides_that_give_no_tile_are_named(slide: Path, tmp_path: Path) -> None:
    write_pyramid(tmp_path / "glass.tif", np.full((300, 300, 3), GLASS, np.uint8), 0.5)
    with pytest.raises(DataError, match=r"glass\.tif: expected tissue"):
        cut_tiles(tmp_path / "glass.tif", 64, 1.0, None, 0.25)
    with pytest.raises(DataError, match="at least one tile"):
        cut_tiles(slide, 1024, 1.0, None, 0.25)
    with pytest.raises(DataError, match=r"at most 0\.25 µm per pixel, got a coarser one of 0\.5"):
        cut_tiles(slide, 64, 0.25, None, 0.25)


def test_a_wrong_scale_is_named(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "wrong.tif", np.full((300, 300, 3), PINK, np.uint8), 0.005)
    with pytest.raises(DataError, match=r"the file says 0\.005.*: give --slide-mpp"):
        cut_tiles(tmp_path / "wrong.tif", 64, 1.0, None, 0.25)
    assert cut_tiles(tmp_path / "wrong.tif", 64, 1.0, 0.5, 0.25) != ([], 0)


def test_slides_are_found_beside_images_and_excluded_by_name(images: Path, slide: Path, tmp_path: Path) -> None:
    found = find_unlabeled([images], [slide], None)
    assert (len(found.images), found.slides) == (5, [slide])
    found = find_unlabeled([images], [slide.parent], exclude(tmp_path, "case"))
    assert (found.slides, found.excluded) == ([], [slide])


@pytest.mark.slide
@pytest.mark.skipif(not REAL_SLIDES.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(("name", "slide_mpp"), [("cmu-1-small-region.svs", None), ("tcga-cr-7395.svs", 0.5), ("luna-1065626.svs", None)])
def test_real_slides_give_tissue(name: str, slide_mpp: float | None) -> None:
    tiles, without = cut_tiles(REAL_SLIDES / name, 224, 1.0, slide_mpp, 0.25)
    assert tiles
    assert without
    rgb = read_tile(tiles[0], 224).astype(np.float32)
    saturation = (rgb.max(axis=2) - rgb.min(axis=2)) / np.maximum(rgb.max(axis=2), 1)
    assert saturation.mean() > 0.04
