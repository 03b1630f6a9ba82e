from __future__ import annotations

import pytest

from serving.entry import entry_of


@pytest.mark.parametrize(
    ("model", "entry"),
    [
        ("default", "default_segment"),
        ("default_segment", "default_segment"),
        ("bcss_pscl_cam", "bcss_pscl_cam"),
        ("demo_segment_image", "demo_segment_image"),
        ("cam", "cam_segment"),
        ("image", "image_segment"),
    ],
)
def test_a_name_alone_means_its_segmenter(model: str, entry: str) -> None:
    assert entry_of(model) == entry
