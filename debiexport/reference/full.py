"""The plain attention of BiFormer's last stage, as the released code computes it."""

from __future__ import annotations

from torch import Tensor, nn

from debiexport.reference.trace import Trace


class FullAttention(nn.Module):
    """Every token attends to every token; nothing is routed.

    The local enhancement `lepe` reads the attention's input, not the values as in BRA, and is added
    before the projection. The scale is that of the head width.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.lepe = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)

    def forward(self, x: Tensor, trace: Trace) -> Tensor:
        """x: (N, H, W, C) after the norm -> (N, H, W, C)."""
        n, height, width, c = x.shape
        qkv = self.qkv(x).reshape(n, height * width, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N, M, HW, d)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        out = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, height, width, c)
        lepe = self.lepe(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.proj(out + lepe)  # type: ignore[no-any-return]
