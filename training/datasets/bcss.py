"""BCSS-WSSS: breast, 224 px patches at 40× (0.25 µm/px), cut from the BCSS regions. Names and folders as published; no torch.

training/TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[1101].png     TUM, STR, LYM, NEC
val/{img,mask}/…  test/{img,mask}/…                                     palette PNG, index 4 = other or excluded
"""

from __future__ import annotations

import re

from .published import PublishedSet

BCSS = PublishedSet(
    task_name="bcss",
    name_pattern=re.compile(r".+\+\d*\[(?P<labels>[01]{4})\]\.png"),
    example="TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[1101].png",
    training_folders=("training", "train"),
    split_folders={"val": ("val", "valid"), "test": ("test",)},
)
