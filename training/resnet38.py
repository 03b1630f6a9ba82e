"""ResNet-38, model A of "Wider or Deeper" (Wu et al. 2016, arXiv 1611.10080, table 1), at output stride 8. Knows no task and no loss.

A wide pre-activation network: a 3×3 convolution (64), then levels of residual units, 38 layers with the classifier. As weakly supervised
segmentation uses it (SEAM, OEEM, ARML), levels 5–7 keep the grid of level 4 and dilate instead (2, 4, 4).

| stage | levels | channels | stride | units |
|---|---|---|---|---|
| 0 | B2 | 128 | 2 | 3 × (3×3, 3×3) |
| 1 | B3 | 256 | 4 | 3 × (3×3, 3×3) |
| 2 | B4 | 512 | 8 | 6 × (3×3, 3×3) |
| 3 | B5 | 1024 | 8 | 3 × (3×3 512, 3×3), dilation 2; its first convolution 1 |
| 4 | B6, B7 | 4096 | 8 | 1×1, 3×3, 1×1 twice (2048, 4096), dilation 4, dropout 0.3 and 0.5 |

A stage's feature is what the next one reads: after batch normalization and ReLU, so never negative.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

NAME = "resnet38"
STRIDES = (2, 4, 8, 8, 8)
_WIDTH = 64


def _normalize(channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(norm=nn.BatchNorm2d(channels), relu=nn.ReLU()))


class ResidualUnit(nn.Module):
    """Pre-activation residual unit (He et al. 2016): x + branch(relu(norm(x))).

    Where the shape changes, a 1×1 convolution of the activated input takes x's place.

    Args:
        channels: of the input and of each convolution's output.
        kernels: side of each convolution.
        dilations: of each convolution.
        stride: of the first convolution.
        is_activated: the input comes normalized and activated; only where the shape changes.
        dropout: share of channels dropped before each convolution but the first.
    """

    def __init__(
        self,
        channels: Sequence[int],
        kernels: Sequence[int],
        dilations: Sequence[int],
        stride: int = 1,
        is_activated: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.activate = nn.Identity() if is_activated else _normalize(channels[0])
        self.projection = None
        if channels[0] != channels[-1] or stride > 1:
            self.projection = nn.Conv2d(channels[0], channels[-1], 1, stride, bias=False)
        branch: OrderedDict[str, nn.Module] = OrderedDict()
        for index, ((inputs, outputs), kernel, dilation) in enumerate(zip(pairwise(channels), kernels, dilations, strict=True)):
            if index > 0:
                branch[f"activate{index}"] = _normalize(inputs)
            if index > 0 and dropout > 0:
                branch[f"dropout{index}"] = nn.Dropout2d(dropout)
            padding = dilation * (kernel // 2)
            branch[f"conv{index}"] = nn.Conv2d(
                inputs, outputs, kernel, stride if index == 0 else 1, padding=padding, dilation=dilation, bias=False
            )
        self.branch = nn.Sequential(branch)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels[0], h, w) → (B, channels[-1], h / stride, w / stride)."""
        activated = self.activate(x)
        shortcut = x if self.projection is None else self.projection(activated)
        result: Tensor = shortcut + self.branch(activated)
        return result


class ResNet38(nn.Module):
    """(B, 3, H, W) → one activated feature map per stage asked for. Cut off after the deepest of them.

    Attributes:
        channels: feature channels of each returned stage.
        strides: input pixels per feature cell of each returned stage.
    """

    def __init__(self, stages: Sequence[int], width: int = _WIDTH) -> None:
        """Build it with fresh weights.

        Args:
            stages: ascending, of 0…4.
            width: channels of the first convolution, of which all others are multiples; 64 is the paper's.

        Raises:
            IndexError: a stage that it does not have.
        """
        super().__init__()
        if min(stages) < 0 or max(stages) >= len(STRIDES):
            raise IndexError(f"expected stages of 0…{len(STRIDES) - 1}")
        self.wanted = tuple(stages)
        outputs = (2 * width, 4 * width, 8 * width, 16 * width, 64 * width)
        self.channels = tuple(outputs[stage] for stage in stages)
        self.strides = tuple(STRIDES[stage] for stage in stages)
        depth = max(stages) + 1
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.stages = nn.ModuleList(_make_stages(width)[:depth])
        # One more than there are stages: [i] comes before stage i, [i + 1] gives its feature.
        self.activations = nn.ModuleList(_normalize(count) for count in (width, *outputs[:depth]))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) → one (B, channels[i], H / strides[i], W / strides[i]) per stage."""
        activated = self.activations[0](self.stem(images))
        features: list[Tensor] = []
        for index, stage in enumerate(self.stages):
            activated = self.activations[index + 1](stage(activated))
            if index in self.wanted:
                features.append(activated)
        return features


def _make_stages(width: int) -> list[nn.Sequential]:
    """The five stages; the first unit of each reads what `activations` gives."""

    def plain(inputs: int, middle: int, outputs: int, first: bool, stride: int = 1, dilations: tuple[int, int] = (1, 1)) -> ResidualUnit:
        return ResidualUnit((inputs, middle, outputs), (3, 3), dilations, stride, is_activated=first)

    def bottleneck(inputs: int, outputs: int, first: bool, dropout: float) -> ResidualUnit:
        channels = (inputs, outputs // 4, outputs // 2, outputs)
        return ResidualUnit(channels, (1, 3, 1), (1, 4, 1), is_activated=first, dropout=dropout)

    stages = []
    for inputs, units in ((width, 3), (2 * width, 3), (4 * width, 6)):  # B2, B3, B4
        outputs = 2 * inputs
        rest = (plain(outputs, outputs, outputs, first=False) for _ in range(units - 1))
        stages.append(nn.Sequential(plain(inputs, outputs, outputs, first=True, stride=2), *rest))
    inputs, outputs = 8 * width, 16 * width
    rest = (plain(outputs, inputs, outputs, first=False, dilations=(2, 2)) for _ in range(2))
    stages.append(nn.Sequential(plain(inputs, inputs, outputs, first=True, dilations=(1, 2)), *rest))  # B5
    stages.append(
        nn.Sequential(bottleneck(outputs, 2 * outputs, first=True, dropout=0.3), bottleneck(2 * outputs, 4 * outputs, False, 0.5))  # B6, B7
    )
    return stages


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names in which ResNet-38 is handed around (SEAM's `resnet38d`, and what derives from it) under ours.

    Published names: `conv1a.weight`; `b{level}` or `b{level}_{unit}` with level 2…7, then `conv_branch1` (shortcut), `bn_branch2a`, `conv_branch2a`,
    `bn_branch2b1`, `conv_branch2b1`, and for levels 6 and 7 `bn_branch2b2`, `conv_branch2b2`; `bn7`. Where the file keeps them under
    `state_dict` or `model`, or with `module.` in front (data parallel), that is taken off. A classifier's head is left out.
    """
    for key in ("state_dict", "model"):
        nested = state.get(key)
        if isinstance(nested, Mapping):
            state = nested
    renamed = {}
    for key, value in state.items():
        name = _rename(key.removeprefix("module."))
        if name is not None and isinstance(value, torch.Tensor):
            renamed[name] = value
    return renamed


_PUBLISHED = re.compile(r"b(?P<level>[2-7])(_(?P<unit>\d))?\.(?P<kind>conv|bn)_branch(?P<place>1|2a|2b1|2b2)\.(?P<field>\w+)")
_PLACES = {"2a": 0, "2b1": 1, "2b2": 2}


def _rename(key: str) -> str | None:
    """One published name → ours; None for what is not the encoder's."""
    if key == "conv1a.weight":
        return "stem.weight"
    if key.startswith("bn7."):
        return f"activations.5.norm.{key.removeprefix('bn7.')}"
    match = _PUBLISHED.fullmatch(key)
    if match is None:
        return None
    level, unit, place, field = int(match["level"]), int(match["unit"] or 0), match["place"], match["field"]
    stage, unit = (4, 1) if level == 7 else (level - 2, unit)
    if match["kind"] == "bn" and place == "2a" and unit == 0:
        return f"activations.{stage}.norm.{field}"
    home = f"stages.{stage}.{unit}"
    if place == "1":
        return f"{home}.projection.{field}"
    if match["kind"] == "conv":
        return f"{home}.branch.conv{_PLACES[place]}.{field}"
    return f"{home}.activate.norm.{field}" if place == "2a" else f"{home}.branch.activate{_PLACES[place]}.norm.{field}"
