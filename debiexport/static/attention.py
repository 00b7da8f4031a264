"""The attentions of the static network; what they do is in `reference/`, how is a matter of slots."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry
from debiexport.static.mlp import StaticConvMLP
from debiexport.static.slots import Slots
from debiexport.static.taps import Taps
from debiexport.static.weights import Weights


class StaticRegionAttention(nn.Module):
    """BRA and full attention: tokens attend to tokens, the local enhancement beside it.

    The enhancement reads the values in BRA and the attention's input in full attention.
    """

    def __init__(self, geometry: AttentionGeometry, weights: Weights, slots: Slots) -> None:
        super().__init__()
        self.geometry, self.layout = geometry, slots.layout
        weights = slots.heads.arrange(weights, geometry)
        self.norm = slots.norm(geometry.channels, weights.at("norm"))
        self.q, self.k, self.v = (self.layout.pointwise(weights[f"{p}.weight"], weights[f"{p}.bias"]) for p in "qkv")
        self.routing = slots.routing(geometry)
        self.lepe = self.layout.conv(weights["lepe.weight"], weights["lepe.bias"], padding=2, groups=geometry.channels)
        self.proj = self.layout.pointwise(weights["proj.weight"], weights["proj.bias"])

    def forward(self, stream: Tensor, taps: Taps) -> Tensor:
        """Residual stream -> what attention adds to it."""
        g, layout = self.geometry, self.layout
        x = layout.pad(self.norm(layout.to_attention(stream)), g.map_size, g.padded_size)
        x = layout.to_stream(x)
        v = self.v(x)
        out = self.routing(self.q(x), self.k(x), v, taps)
        local = self.lepe(x if g.kind == "full" else v)
        # Added as maps of attention, the sum goes straight into the projection.
        out = layout.crop(out + layout.to_attention(local), g.padded_size, g.map_size)
        return self.proj(layout.to_stream(out))  # type: ignore[no-any-return]


class StaticOffsets(nn.Module):
    """The learned scalar of each agent and group, by which it leaves its reference point on both axes."""

    def __init__(self, geometry: AttentionGeometry, weights: Weights, slots: Slots) -> None:
        super().__init__()
        self.geometry, self.layout = geometry, slots.layout
        stage = geometry.stage
        assert stage.offset_groups
        assert stage.offset_kernel
        assert stage.agent_stride
        self.groups = stage.offset_groups
        # Every group has the same kernel: repeated, one depthwise convolution serves all channels at once.
        kernel = weights["conv.weight"].repeat(self.groups, 1, 1, 1)
        self.conv = self.layout.conv(
            kernel, None, stride=stage.agent_stride, padding=stage.offset_kernel // 2, groups=stage.channels
        )
        self.norm = slots.norm(stage.channels // self.groups, weights.at("norm"), eps=1e-5)
        self.pointwise = self.layout.attention_pointwise(weights["pointwise.weight"], None)

    def forward(self, q: Tensor) -> Tensor:
        """q (N, C, H, W) -> offsets (N, G, n, 1) of the agents before padding."""
        t = self.layout.to_groups(self.conv(q), self.groups)
        return self.layout.from_groups(self.pointwise(F.gelu(self.norm(t))), self.groups)


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
        weights = slots.heads.arrange(weights, geometry)

        def pointwise(name: str) -> nn.Module:
            return layout.pointwise(weights[f"{name}.weight"], weights[f"{name}.bias"])

        def attention_pointwise(name: str) -> nn.Module:
            return layout.attention_pointwise(weights[f"{name}.weight"], weights[f"{name}.bias"])

        self.norm = slots.norm(c, weights.at("norm"))
        # Where the norm's affine is folded into its readers, the samples, which are sums of normed tokens
        # whose weights add up to one, get it here.
        for part, name in (("sample_scale", "samples.weight"), ("sample_shift", "samples.bias")):
            values = weights.get(name)
            self.register_buffer(part, None if values is None else layout.per_channel(values))
        self.q, self.k, self.v = (pointwise(part) for part in "qkv")
        self.offset = StaticOffsets(geometry, weights.at("offset"), slots)
        self.positions = layout.positions(geometry, slots.dtype)
        self.sampling = slots.sampling(geometry)
        self.agent_q = attention_pointwise("agent_q")
        self.routing = slots.routing(geometry)
        self.lepe = layout.conv(weights["lepe.weight"], weights["lepe.bias"], stride=stride, padding=2, groups=c)
        self.unify = attention_pointwise("unify")
        self.mlp_norm = slots.norm(c, weights.at("mlp_norm"))
        self.mlp = StaticConvMLP(weights.at("mlp"), layout)
        self.agent_norm = slots.norm(c, weights.at("agent_norm"))
        self.agent_k, self.agent_v = attention_pointwise("agent_k"), attention_pointwise("agent_v")
        self.bias = slots.bias(geometry, weights["table"])
        self.broadcast = slots.broadcast(geometry)
        self.proj = pointwise("proj")

    def forward(self, stream: Tensor, taps: Taps) -> Tensor:
        """Residual stream -> what attention adds to it."""
        g, layout = self.geometry, self.layout
        x = layout.pad(self.norm(layout.to_attention(stream)), g.map_size, g.padded_size)
        tokens = layout.to_stream(x)
        q = self.q(tokens)
        positions = self.positions(self.offset(q))

        agents = self.sampling(x, positions)  # a map of Hk x Wk
        if self.sample_scale is not None:
            agents = agents * self.sample_scale + self.sample_shift
        agents = self.refine(tokens, layout.pad(agents, self.agent_size, self.padded_agent_size), taps)

        bias = self.bias(self.positions.pad(positions))
        out = self.broadcast(q, self.agent_k(agents), self.agent_v(agents), bias)
        return self.proj(layout.to_stream(layout.crop(out, g.padded_size, g.map_size)))  # type: ignore[no-any-return]

    def refine(self, x: Tensor, agents: Tensor, taps: Taps) -> Tensor:
        """Agents, a map, attend to their routed regions of x (N, C, H, W), pass the inner MLP and norm."""
        layout = self.layout
        v = self.v(x)
        attended = self.routing(layout.to_stream(self.agent_q(agents)), self.k(x), v, taps)
        local = layout.to_attention(self.lepe(v))
        agents = agents + self.unify(attended + layout.pad(local, self.agent_size, self.padded_agent_size))
        out = self.mlp(layout.to_stream(self.mlp_norm(agents)))
        return self.agent_norm(agents + layout.to_attention(out))  # type: ignore[no-any-return]
