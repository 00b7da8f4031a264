"""The attentions of the static network; what they do is in `reference/`, how is a matter of slots."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.mlp import StaticConvMLP
from debiexport.static.ops.heads.order import by_head
from debiexport.static.ops.positions import Positions
from debiexport.static.slots import Slots
from debiexport.static.taps import Taps
from debiexport.static.weights import Weights


def pad_map(x: Tensor, size: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    """Zero-pad (N, H, W, C) right and bottom; nothing where the sizes agree."""
    if size == padded:
        return x
    return F.pad(x, (0, 0, 0, padded[1] - size[1], 0, padded[0] - size[0]))


def crop_map(x: Tensor, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Undo `pad_map`; nothing where the sizes agree."""
    return x if padded == size else x[:, : size[0], : size[1]]


class StaticRegionAttention(nn.Module):
    """BRA and full attention: tokens attend to tokens, the local enhancement beside it.

    The enhancement reads the values in BRA and the attention's input in full attention.
    """

    def __init__(self, geometry: AttentionGeometry, weights: Weights, slots: Slots) -> None:
        super().__init__()
        self.geometry, self.layout = geometry, slots.layout
        self.norm = slots.norm(geometry.channels, weights.at("norm"))
        self.q, self.k, self.v = (self.layout.pointwise(weights[f"{p}.weight"], weights[f"{p}.bias"]) for p in "qkv")
        self.routing = slots.routing(geometry)
        self.lepe = self.layout.conv(weights["lepe.weight"], weights["lepe.bias"], padding=2, groups=geometry.channels)
        self.proj = self.layout.pointwise(weights["proj.weight"], weights["proj.bias"])

    def forward(self, stream: Tensor, taps: Taps) -> Tensor:
        """Residual stream -> what attention adds to it."""
        g, layout = self.geometry, self.layout
        x = pad_map(self.norm(layout.to_attention(stream)), g.map_size, g.padded_size)  # (N, H, W, C)
        x = layout.to_stream(x)
        v = self.v(x)
        out = self.routing(self.q(x), self.k(x), v, taps)
        local = self.lepe(x if g.kind == "full" else v)
        # Added as maps of attention, the sum goes straight into the projection.
        out = crop_map(out + layout.to_attention(local), g.padded_size, g.map_size)
        return self.proj(layout.to_stream(out))  # type: ignore[no-any-return]


class StaticOffsets(nn.Module):
    """Positions of the agents: reference points plus one learned scalar per agent and group."""

    centres: Tensor

    def __init__(self, geometry: AttentionGeometry, weights: Weights, slots: Slots) -> None:
        super().__init__()
        self.geometry, self.layout = geometry, slots.layout
        stage = geometry.stage
        assert stage.offset_groups
        assert stage.offset_kernel
        assert stage.agent_stride
        assert geometry.agent_size
        self.groups, self.group_width = stage.offset_groups, stage.channels // stage.offset_groups
        # Every group has the same kernel: repeated, one depthwise convolution serves all channels at once.
        kernel = weights["conv.weight"].repeat(self.groups, 1, 1, 1)
        self.conv = self.layout.conv(
            kernel, None, stride=stage.agent_stride, padding=stage.offset_kernel // 2, groups=stage.channels
        )
        self.norm = slots.norm(self.group_width, weights.at("norm"), eps=1e-5)
        self.pointwise = self.layout.attention_pointwise(weights["pointwise.weight"], None)
        hk, wk = geometry.agent_size
        self.agents = hk * wk
        y = (torch.arange(hk, dtype=torch.float64) + 0.5) / hk * 2 - 1
        x = (torch.arange(wk, dtype=torch.float64) + 0.5) / wk * 2 - 1
        y, x = torch.meshgrid(y, x, indexing="ij")
        self.register_buffer("centres", torch.stack((x, y), -1).reshape(1, 1, -1, 2).to(slots.dtype))

    def forward(self, q: Tensor) -> Positions:
        """q (N, C, H, W) -> positions of the agents before padding."""
        t = self.layout.to_attention(self.conv(q)).reshape(-1, self.agents, self.groups, self.group_width)
        offset: Tensor = self.pointwise(F.gelu(self.norm(t))).transpose(1, 2)  # (N, G, n, 1), for both coordinates
        return (self.centres + offset).clamp(-1, 1)


class StaticDBRA(nn.Module):
    """DBRA: agents sampled at learned positions, routed attention, broadcast with a position bias."""

    sample_scale: Tensor | None
    sample_shift: Tensor | None

    def __init__(self, geometry: AttentionGeometry, weights: Weights, slots: Slots) -> None:
        super().__init__()
        self.geometry, self.layout = geometry, slots.layout
        layout, c = self.layout, geometry.channels
        stride = geometry.stage.agent_stride
        assert stride
        assert geometry.agent_size
        assert geometry.padded_agent_size
        self.agent_size, self.padded_agent_size = geometry.agent_size, geometry.padded_agent_size

        def pointwise(name: str) -> nn.Module:
            return layout.pointwise(weights[f"{name}.weight"], weights[f"{name}.bias"])

        def attention_pointwise(name: str) -> nn.Module:
            return layout.attention_pointwise(weights[f"{name}.weight"], weights[f"{name}.bias"])

        self.norm = slots.norm(c, weights.at("norm"))
        # Where the norm's affine is folded into its readers, the samples, which are sums of normed tokens
        # whose weights add up to one, get it here.
        self.register_buffer("sample_scale", weights.get("samples.weight"))
        self.register_buffer("sample_shift", weights.get("samples.bias"))
        self.q, self.k, self.v = (pointwise(part) for part in "qkv")
        self.offset = StaticOffsets(geometry, weights.at("offset"), slots)
        self.sampling = slots.sampling(geometry)
        self.agent_q = attention_pointwise("agent_q")
        self.tokens = slots.heads(by_head(geometry.padded_size, geometry.heads), geometry.head_width)
        self.agents = slots.heads(by_head(self.padded_agent_size, geometry.heads), geometry.head_width)
        self.routing = slots.routing(geometry)
        self.lepe = layout.conv(weights["lepe.weight"], weights["lepe.bias"], stride=stride, padding=2, groups=c)
        self.unify = attention_pointwise("unify")
        self.mlp_norm = slots.norm(c, weights.at("mlp_norm"))
        self.mlp = StaticConvMLP(weights.at("mlp"), layout)
        self.agent_norm = slots.norm(c, weights.at("agent_norm"))
        self.agent_k, self.agent_v = attention_pointwise("agent_k"), attention_pointwise("agent_v")
        self.bias = slots.bias(geometry, weights["table"])
        self.proj = pointwise("proj")

    def forward(self, stream: Tensor, taps: Taps) -> Tensor:
        """Residual stream -> what attention adds to it."""
        g, layout = self.geometry, self.layout
        x = pad_map(self.norm(layout.to_attention(stream)), g.map_size, g.padded_size)  # (N, H, W, C)
        tokens = layout.to_stream(x)
        q = self.q(tokens)
        positions = self.offset(q)

        agents = self.sampling(x, positions)  # (N, Hk, Wk, C)
        if self.sample_scale is not None:
            agents = agents * self.sample_scale + self.sample_shift
        agents = self.refine(tokens, pad_map(agents, self.agent_size, self.padded_agent_size), taps)

        out = self.broadcast(q, agents, self.bias(self._pad_positions(positions)))
        return self.proj(layout.to_stream(crop_map(out, g.padded_size, g.map_size)))  # type: ignore[no-any-return]

    def refine(self, x: Tensor, agents: Tensor, taps: Taps) -> Tensor:
        """Agents (N, Hk, Wk, C) attend to their routed regions of x (N, C, H, W), pass the inner MLP and norm."""
        layout = self.layout
        v = self.v(x)
        attended = self.routing(layout.to_stream(self.agent_q(agents)), self.k(x), v, taps)
        local = layout.to_attention(self.lepe(v))
        agents = agents + self.unify(attended + pad_map(local, self.agent_size, self.padded_agent_size))
        out = self.mlp(layout.to_stream(self.mlp_norm(agents)))
        return self.agent_norm(agents + layout.to_attention(out))  # type: ignore[no-any-return]

    def broadcast(self, q: Tensor, agents: Tensor, bias: Tensor) -> Tensor:
        """Every token of q (N, C, H, W) attends to the agents (N, Hk, Wk, C) -> (N, H, W, C)."""
        m, d = self.geometry.heads, self.geometry.head_width
        k, v = (self.agents.split(p(agents)) for p in (self.agent_k, self.agent_v))  # (N, M, n, d)
        q = q.reshape(-1, m, d, q.shape[-2] * q.shape[-1]).transpose(-2, -1)  # (N, M, HW, d)
        scores = q @ k.transpose(-2, -1) + bias  # (N, M, HW, n)
        return self.tokens.merge(scores.softmax(-1) @ v)

    def _pad_positions(self, positions: Positions) -> Positions:
        """Positions of the padded agents: padding stands at the centre, zero."""
        if self.agent_size == self.padded_agent_size:
            return positions
        (hk, wk), (ph, pw) = self.agent_size, self.padded_agent_size
        groups = positions.shape[1]
        maps = positions.reshape(-1, groups, hk, wk, 2)
        return F.pad(maps, (0, 0, 0, pw - wk, 0, ph - hk)).reshape(-1, groups, ph * pw, 2)
