"""WSSS4LUAD: lung, at 10× (about 1 µm/px), irregular sizes: training patches of about 150–300 px, crops of 200–5000 px. As published; no torch.

    1.training/436219-9328-56427-[1, 1, 0].png     tumor, stroma, normal
    2.validation/{img,mask}/00.png                 palette PNG, index 3 = background
    3.testing/{img,mask}/…

The set's `background-mask` folders are not read: index 3 of its masks says the same (measured: research, wsss.md §4).
"""

from __future__ import annotations

import re

from .published import PublishedSet

WSSS4LUAD = PublishedSet(
    task_name="wsss4luad",
    name_pattern=re.compile(r".+-\[(?P<labels>[01](?:, [01]){2})\]\.png"),
    example="436219-9328-56427-[1, 1, 0].png",
    training_folders=("1.training",),
    split_folders={"val": ("2.validation",), "test": ("3.testing",)},
)
