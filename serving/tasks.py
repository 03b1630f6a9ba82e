"""The tissue tasks that ship with histoserve. Training starts from one of these; clients never import it: they read the contract from the server."""

from __future__ import annotations

from .contract import BackgroundRule, ContractError, Normalization, TissueClass, TissueTask

IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

# Label encodings and palettes as published (research: wsss.md §2); rules and scales settled in METHODS.md, "Data sets and the contract".
TASKS: dict[str, TissueTask] = {
    task.name: task
    for task in (
        TissueTask(
            name="bcss",
            classes=(
                TissueClass("tumor", (255, 0, 0)),
                TissueClass("stroma", (0, 255, 0)),
                TissueClass("lymphocytic infiltrate", (0, 0, 255)),
                TissueClass("necrosis", (153, 0, 255)),
            ),
            mpp=0.25,
            tile_px=224,
            normalization=IMAGENET,
            background=BackgroundRule(gray_above=200, min_size_px=600),
            label_encoding=((0, 1), (1, 2), (2, 3), (3, 4), (4, 0)),
        ),
        TissueTask(
            name="luad",
            classes=(
                TissueClass("tumor epithelium", (205, 51, 51)),
                TissueClass("necrosis", (0, 255, 0)),
                TissueClass("lymphocyte", (65, 105, 225)),
                TissueClass("tumor-associated stroma", (255, 165, 0)),
            ),
            mpp=1.0,
            tile_px=224,
            normalization=IMAGENET,
            background=BackgroundRule(gray_above=200, min_size_px=200),
            label_encoding=((0, 1), (1, 2), (2, 3), (3, 4), (4, 0)),
        ),
        TissueTask(
            name="wsss4luad",
            classes=(
                TissueClass("tumor", (0, 64, 128)),
                TissueClass("stroma", (64, 128, 0)),
                TissueClass("normal", (243, 152, 0)),
            ),
            mpp=1.0,
            tile_px=224,
            normalization=IMAGENET,
            background=BackgroundRule(gray_above=200, min_size_px=50),
            label_encoding=((0, 1), (1, 2), (2, 3), (3, 0)),
        ),
        TissueTask(
            name="glas",
            classes=(TissueClass("gland", (220, 60, 120)), TissueClass("stroma", (60, 160, 90))),
            mpp=0.62,
            tile_px=224,
            normalization=IMAGENET,
            background=None,
            label_encoding=((255, 1), (0, 2)),
        ),
        TissueTask(
            name="osteosarcoma",
            classes=(
                TissueClass("viable tumor", (200, 40, 60)),
                TissueClass("necrosis", (120, 90, 180)),
                TissueClass("non-tumor", (70, 150, 90)),
            ),
            mpp=1.0,
            tile_px=224,
            normalization=IMAGENET,
            background=BackgroundRule(gray_above=200, min_size_px=50),
            label_encoding=((0, 0), (1, 1), (2, 2), (3, 3)),
        ),
        TissueTask(
            name="demo",
            classes=(
                TissueClass("tumor", (214, 39, 40)),
                TissueClass("gland", (31, 119, 180)),
                TissueClass("stroma", (44, 160, 44)),
                TissueClass("necrosis", (148, 103, 189)),
            ),
            mpp=0.5,
            tile_px=224,
            normalization=IMAGENET,
            background=BackgroundRule(gray_above=200, min_size_px=600),
            label_encoding=((0, 0), (1, 1), (2, 2), (3, 3), (4, 4)),
        ),
    )
}


def get_task(name: str) -> TissueTask:
    """The shipped task of that name.

    Raises:
        ContractError: no such task; the message lists those there are.
    """
    try:
        return TASKS[name]
    except KeyError:
        raise ContractError(f"unknown task {name!r}: expected one of {', '.join(sorted(TASKS))}") from None
