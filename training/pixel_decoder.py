"""The pixel decoder of Mask2Former (Cheng et al. 2022), from transformers, on a timm pyramid, with deformable attention that exports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from . import torchvision_schemas  # noqa: F401  must precede transformers
from .deformable import multi_scale_deformable_attention
from .errors import EncoderError

from transformers import Mask2FormerConfig  # isort: skip
from transformers.models.mask2former import modeling_mask2former as library  # isort: skip

# The library calls this function of its module, and nothing else, for the sampling. Ours computes the same (tested against it) without GridSample.
library.multi_scale_deformable_attention = multi_scale_deformable_attention  # type: ignore[assignment]  # it never passes a tensor of shapes

STRIDES = (4, 8, 16, 32)
_CHANNELS_A_HEAD = 32  # of the group normalizations too


class Mask2FormerDecoder(nn.Module):
    """Pyramid at strides 4, 8, 16, 32 → (B, width, H / 4, W / 4): deformable attention over the three coarsest levels, then a top-down step to the finest.

    Args:
        width: channels throughout; a multiple of 32.
        layers: of the deformable encoder.

    Raises:
        EncoderError: the pyramid has other strides, or the width does not divide.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int = 256, layers: int = 6) -> None:
        super().__init__()
        if tuple(strides) != STRIDES:
            raise EncoderError(f"Mask2Former decoder: expected decoder stages of strides {STRIDES}, got {tuple(strides)}")
        if width % _CHANNELS_A_HEAD:
            raise EncoderError(f"Mask2Former decoder: expected a width that is a multiple of {_CHANNELS_A_HEAD}, got {width}")
        config = Mask2FormerConfig(
            feature_size=width,
            mask_feature_size=width,
            hidden_dim=width,
            encoder_feedforward_dim=4 * width,
            encoder_layers=layers,
            num_attention_heads=width // _CHANNELS_A_HEAD,
            feature_strides=list(STRIDES),
            common_stride=STRIDES[0],
            dropout=0.0,
        )
        self.body = _Initialized(config, list(channels))

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        features: Tensor = self.body.decoder(pyramid).mask_features
        return features


class _Initialized(library.Mask2FormerPreTrainedModel):  # type: ignore[no-untyped-call]  # transformers is typed in part
    """Holds the decoder so that the library's own initialization of its weights runs."""

    def __init__(self, config: Mask2FormerConfig, channels: list[int]) -> None:
        super().__init__(config)
        self.decoder: Any = library.Mask2FormerPixelDecoder(config, channels)
        # Not post_init(): it takes a class outside of transformers for custom code and then skips every module that holds no parameter of
        # its own, the attention among them.
        self.apply(self._init_weights)
