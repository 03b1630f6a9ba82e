"""ARML's activation relocalization scheme (§2.2): criss-cross attention, then reactivation of weak responses. Knows no class and no loss."""

from __future__ import annotations

from torch import Tensor, nn

from .criss_cross import CrissCross

# e^4 ≈ 55: features up to 1,000 stay within half precision when they are multiplied by it.
_MAX_EXPONENT = 4.0


class Relocalization(nn.Module):
    """f″ = f′ · e^−Conv(P(f′)), f′ = criss-cross attention of f (ARML eq. 1–3): what answers strongly is restrained, what hardly answers grows.

    P is the mean over channels, one map (B, 1, H, W); Conv one 7×7 convolution with bias that keeps the size (zeros beyond the border). The
    exponent is at most 4, where the paper has no bound: e^−x must not overflow in half precision. Every parameter is trained from the first
    step on; the published code's optimizer left the attention's gamma and the gate out.

    Args:
        channels: of the feature map.
        key_channels: C′ of the attention's queries and keys.
        gamma: the attention's sum is scaled by a learned number that starts at 0 (published code; queries, keys and values are then trained
            from the second step on).
    """

    def __init__(self, channels: int, key_channels: int, gamma: bool = False) -> None:
        super().__init__()
        self.attention = CrissCross(channels, key_channels, gamma)
        self.gate = nn.Conv2d(1, 1, 7, padding=3)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        context: Tensor = self.attention(features)
        strength: Tensor = self.gate(context.mean(dim=1, keepdim=True))
        factor = (-strength).clamp(max=_MAX_EXPONENT).exp()
        return (context * factor).to(features.dtype)
