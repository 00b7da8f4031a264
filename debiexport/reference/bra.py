"""BRA, bi-level routing attention (BiFormer, section 3.2), as the released code computes it."""

from __future__ import annotations

from torch import Tensor, nn

from debiexport.reference.regions import from_regions, pad_to_regions, routed_attention, to_regions
from debiexport.reference.trace import Trace


class _QKV(nn.Module):
    """Holds `qkv` one level down, where released checkpoints have it."""

    def __init__(self, qkv: nn.Module) -> None:
        super().__init__()
        self.qkv = qkv

    def forward(self, x: Tensor) -> Tensor:
        return self.qkv(x)  # type: ignore[no-any-return]


class BRA(nn.Module):
    """Regions attend to the tokens of their top-k regions.

    Args:
        name: stable name of this attention.
        channels: C.
        heads: M.
        regions: S, regions per side.
        top_k: regions that a region attends to.
    """

    def __init__(self, name: str, channels: int, heads: int, regions: int, top_k: int) -> None:
        super().__init__()
        self.name, self.heads, self.regions, self.top_k = name, heads, regions, top_k
        self.scale = channels**-0.5  # the whole width, not the head width
        self.qkv = _QKV(nn.Linear(channels, 3 * channels))
        self.lepe = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.wo = nn.Linear(channels, channels)

    def forward(self, x: Tensor, trace: Trace) -> Tensor:
        """x: (N, H, W, C) after the norm -> (N, H, W, C)."""
        height, width = x.shape[1:3]
        x = pad_to_regions(x, self.regions)
        q, k, v = self.qkv(x).chunk(3, dim=-1)

        qr, kr, vr = (to_regions(t, self.regions) for t in (q, k, v))  # (N, R, T, C)
        affinity = (qr.mean(2) * self.scale) @ kr.mean(2).transpose(-2, -1)  # (N, R, R)
        routes = trace.choose(self.name, affinity, self.top_k)

        out = routed_attention(qr, kr, vr, routes, self.heads, self.scale)
        out = from_regions(out, self.regions, *x.shape[1:3])
        lepe = self.lepe(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.wo((out + lepe)[:, :height, :width])  # type: ignore[no-any-return]
