"""What callers may call a model: its entry, or its name alone. Knows no server."""

from __future__ import annotations

from .contract import Kind

DEFAULT_MODEL = "default"  # ships with the repository
_KINDS: tuple[Kind, ...] = ("segment", "cam")
_ENDINGS = (*(f"_{kind}" for kind in _KINDS), f"_{_KINDS[0]}_image")


def entry_of(model: str) -> str:
    """The entry that callers use: `NAME_segment`, `NAME_cam` or `NAME_segment_image` as it is; NAME alone means its segmenter."""
    return model if model.endswith(_ENDINGS) else f"{model}_{_KINDS[0]}"
