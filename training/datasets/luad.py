"""LUAD-HistoSeg: lung, 224 px patches at 10× (about 1 µm/px). Names and folders as published; no torch.

training/1031280-2300-27920-[1 0 0 1].png      TE, NEC, LYM, TAS
val/{img,mask}/…  test/{img,mask}/…           palette PNG, index 4 = background
"""

from __future__ import annotations

import re

from .published import PublishedSet

LUAD = PublishedSet(
    task_name="luad",
    name_pattern=re.compile(r".+-\[(?P<labels>[01](?: [01]){3})\]\.png"),
    example="1031280-2300-27920-[1 0 0 1].png",
    training_folders=("training", "train"),
    split_folders={"val": ("val", "valid"), "test": ("test",)},
)
