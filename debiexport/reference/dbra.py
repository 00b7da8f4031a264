"""DBRA, deformable bi-level routing attention (DeBiFormer, section 3), as the released code computes it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from debiexport.reference.bra import _QKV
from debiexport.reference.mlp import ConvMLP
from debiexport.reference.regions import from_regions, pad_to_regions, routed_attention, to_regions
from debiexport.reference.trace import Trace

MAX_BIAS_BYTES = 256 * 2**20
"""Of everything that is computed at once for the position bias where no gradient is wanted."""


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of a map (N, C, H, W), with its parameters one level down."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class DBRA(nn.Module):
    """Deformable agents attend to routed regions, then every token attends to the agents.

    Args:
        name: stable name of this attention.
        channels: C.
        heads: M.
        regions: S, regions per side.
        top_k: regions that an agent region attends to.
        groups: G, groups of channels with offsets of their own.
        kernel: K, side of the offset network's kernel.
        stride: r, tokens per agent and side.
        table_side: q; the position bias table has side 2q-1.
        mlp_ratio: hidden width of the inner MLP over C.
    """

    def __init__(
        self,
        name: str,
        channels: int,
        heads: int,
        regions: int,
        top_k: int,
        *,
        groups: int,
        kernel: int,
        stride: int,
        table_side: int,
        mlp_ratio: int,
    ) -> None:
        super().__init__()
        self.name, self.heads, self.regions, self.top_k = name, heads, regions, top_k
        self.groups = groups
        self.scale = channels**-0.5  # the whole width, not the head width
        width = channels // groups
        self.qkv_conv = _QKV(nn.Conv2d(channels, 3 * channels, 1))
        self.lepe1 = nn.Conv2d(channels, channels, 5, stride=stride, padding=2, groups=channels)
        self.conv_offset_q = nn.Sequential(
            nn.Conv2d(width, width, kernel, stride=stride, padding=kernel // 2, groups=width, bias=False),
            ChannelNorm(width),
            nn.GELU(),
            nn.Conv2d(width, 1, 1, bias=False),
        )
        self.proj_q = nn.Conv2d(channels, channels, 1)
        self.proj_k = nn.Conv2d(channels, channels, 1)
        self.proj_v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)
        self.unifyheads1 = nn.Conv2d(channels, channels, 1)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = ConvMLP(channels, mlp_ratio)
        self.rpe_table = nn.Parameter(torch.zeros(heads, 2 * table_side - 1, 2 * table_side - 1))

    def forward(self, x: Tensor, trace: Trace) -> Tensor:
        """x: (N, H, W, C) after the norm -> (N, H, W, C)."""
        height, width = x.shape[1:3]
        x = pad_to_regions(x, self.regions).permute(0, 3, 1, 2)  # (N, C, H, W) of the padded map
        q, k, v = self.qkv_conv(x).chunk(3, dim=1)
        lepe = self.lepe1(v)

        positions = self.positions(q)  # (N, G, Hk, Wk, 2) as (y, x), before any padding of the agents
        agents = self.sample(x, positions)  # (N, C, Hk, Wk)
        agents, lepe = self._pad_agents(agents), self._pad_agents(lepe)
        positions = self._pad_agents(positions.permute(0, 1, 4, 2, 3)).permute(0, 1, 3, 4, 2)

        o = agents + self.unifyheads1(self.attend(agents, k, v, trace) + lepe)
        o = o + self.mlp(self._norm(self.norm2, o))
        o = self._norm(self.norm, o)
        return self.broadcast(q, o, positions).permute(0, 2, 3, 1)[:, :height, :width]

    def positions(self, q: Tensor) -> Tensor:
        """Sampling positions of the agents (N, G, Hk, Wk, 2), (y, x) in [-1, 1]; steps 2 and 3.

        The offset network gives one scalar per agent and group, added to both coordinates.
        """
        n, c, height, width = q.shape
        offset = self.conv_offset_q(q.reshape(n * self.groups, c // self.groups, height, width))  # (N*G, 1, Hk, Wk)
        hk, wk = offset.shape[2:]
        y = (torch.arange(hk, dtype=q.dtype) + 0.5) / hk * 2 - 1
        x = (torch.arange(wk, dtype=q.dtype) + 0.5) / wk * 2 - 1
        centres = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).to(q.device)  # (Hk, Wk, 2)
        positions: Tensor = centres + offset.reshape(n, self.groups, hk, wk, 1)
        return positions.clamp(-1, 1)

    def sample(self, x: Tensor, positions: Tensor) -> Tensor:
        """Bilinear samples of x (N, C, H, W) at the agents' positions, group-wise; step 4."""
        n, c, height, width = x.shape
        hk, wk = positions.shape[2:4]
        grouped = x.reshape(n * self.groups, c // self.groups, height, width)
        grid = positions.reshape(n * self.groups, hk, wk, 2).flip(-1)  # grid_sample wants (x, y)
        out = F.grid_sample(grouped, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        return out.reshape(n, c, hk, wk)

    def attend(self, agents: Tensor, k: Tensor, v: Tensor, trace: Trace) -> Tensor:
        """Agents attend to the tokens of their routed regions; step 5. Maps (N, C, ·, ·) in and out."""
        hk, wk = agents.shape[2:]
        queries = self.proj_q(agents)
        qr, kr, vr = (to_regions(t.permute(0, 2, 3, 1), self.regions) for t in (queries, k, v))
        affinity = (qr.mean(2) * self.scale) @ kr.mean(2).transpose(-2, -1)
        routes = trace.choose(self.name, affinity, self.top_k)
        out = routed_attention(qr, kr, vr, routes, self.heads, self.scale)
        return from_regions(out, self.regions, hk, wk).permute(0, 3, 1, 2)

    def broadcast(self, q: Tensor, o: Tensor, positions: Tensor) -> Tensor:
        """Every token of the map attends to the agents o, with a position bias; step 7."""
        n, c, height, width = q.shape
        m, d = self.heads, c // self.heads
        queries = q.reshape(n, m, d, height * width).transpose(-2, -1)
        k, v = (proj(o).reshape(n, m, d, -1) for proj in (self.proj_k, self.proj_v))
        weights = self._weights(queries @ k, positions, height, width)  # (N, M, HW, agents)
        out = (weights @ v.transpose(-2, -1)).transpose(-2, -1)
        return self.proj_out(out.reshape(n, c, height, width))  # type: ignore[no-any-return]

    def _weights(self, products: Tensor, positions: Tensor, height: int, width: int) -> Tensor:
        """Softmax of the scaled products (N, M, HW, agents) with the position bias added.

        On large maps the grid of displacements is many times as large as the products. No token needs another's,
        so that the same numbers come out piece by piece; not where autograd or an exporter records what is done.
        """
        tokens, step = products.shape[2], self._tokens_at_once(products)
        if step >= tokens or torch.is_grad_enabled() or torch.compiler.is_compiling():
            weights: Tensor = (products * self.scale + self.bias(positions, height, width)).softmax(-1)
            return weights
        products *= self.scale
        for start in range(0, tokens, step):
            piece = products[:, :, start : start + step]
            piece += self.bias(positions, height, width, slice(start, start + step))
            piece.copy_(piece.softmax(-1))
        return products

    def _tokens_at_once(self, products: Tensor) -> int:
        """Tokens whose bias takes at most `MAX_BIAS_BYTES`: displacements in three copies, samples, their softmax."""
        n, m, _, agents = products.shape
        return max(MAX_BIAS_BYTES // (n * agents * (3 * 2 * self.groups + 2 * m) * products.element_size()), 1)

    def bias(self, positions: Tensor, height: int, width: int, which: slice = slice(None)) -> Tensor:
        """Position bias (N, M, HW, agents): the tables sampled at (token - agent) / 2; step 8.

        `which` of the HW tokens are wanted; all by default.
        """
        n, g = positions.shape[:2]
        agents = positions.reshape(n * g, 1, -1, 2)
        y = torch.arange(height, dtype=positions.dtype) / (height - 1) * 2 - 1
        x = torch.arange(width, dtype=positions.dtype) / (width - 1) * 2 - 1
        tokens = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).to(positions.device).reshape(1, -1, 1, 2)
        displacement = (tokens[:, which] - agents) * 0.5  # (N*G, HW, agents, 2)
        per_group = self.heads // g
        tables = self.rpe_table.reshape(1, g, per_group, *self.rpe_table.shape[1:])
        tables = tables.expand(n, -1, -1, -1, -1).flatten(0, 1)
        sampled = F.grid_sample(tables, displacement.flip(-1), mode="bilinear", align_corners=True)
        return sampled.reshape(n, self.heads, *displacement.shape[1:3])

    def _pad_agents(self, x: Tensor) -> Tensor:
        """Zero-pad an agent map (..., Hk, Wk) right and bottom to multiples of S; zero is the centre."""
        hk, wk = x.shape[-2:]
        return F.pad(x, (0, -wk % self.regions, 0, -hk % self.regions))

    @staticmethod
    def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]
