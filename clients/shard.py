"""Which slides of a list are one job's: the same whatever the other jobs see. Knows no scheduler."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from .slide_list import SlideEntry


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a list of slides.

    Attributes:
        index: 0 … count - 1, as Slurm's and Kubernetes' arrays count.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of "i/n".

        Raises:
            ValueError: it is something else, or i is not among 0 … n - 1; the message names the flag of the command.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
        if found is None or int(found[1]) >= int(found[2]):
            raise ValueError(f"--shard {text}: expected I/N with I from 0 to N - 1, e.g. 0/10 … 9/10")
        return cls(int(found[1]), int(found[2]))

    def take(self, entries: Sequence[SlideEntry]) -> list[SlideEntry]:
        """This part's slides, in their order: by a digest of the file's name, which also names the mask.

        Not by place in the list: a slide that comes or goes between the starts of two jobs would move all others.
        """
        return [entry for entry in entries if self._place(entry.path.name) == self.index]

    def _place(self, name: str) -> int:
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % self.count
