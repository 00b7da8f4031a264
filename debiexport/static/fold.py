"""Folding: operations that a neighbour's weights can absorb exactly, absorbed.

    batch norm after a convolution     into the convolution
    batch norm before a convolution    into the convolution (only where it does not pad)
    the last batch norm                into the head: the mean over positions commutes with it
    x + dw(x)                          one more at the centre tap of the kernel
    attention scale                    into q of BRA and of full attention; in DBRA, whose q also feeds
                                       the offsets, into proj_q (agents) and proj_k (broadcast)
    a LayerNorm's affine               into the linear maps that read it, and onto the samples of DBRA; kept
                                       where the normed map is zero-padded or read by a depthwise convolution

Everything is computed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from debiexport.geometry import AttentionGeometry, Geometry
from debiexport.names import attention_parts, block_name, feature_name, stage_name
from debiexport.reference.bra import BRA
from debiexport.reference.dbra import DBRA, ChannelNorm
from debiexport.reference.full import FullAttention
from debiexport.reference.mlp import ConvMLP
from debiexport.reference.network import DoubleBlock, FeatureNorm, ReferenceNetwork, SingleBlock
from debiexport.static.weights import Weights

Affine = tuple[Tensor, Tensor]  # weight (out, in[, kh, kw]), bias (out)
Named = Iterator[tuple[str, Tensor]]


def fold_batch_norm_after(weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> Affine:
    """Convolution followed by batch norm -> one convolution. weight (out, in, kh, kw)."""
    scale, shift = _batch_norm_affine(norm)
    return weight * scale.view(-1, 1, 1, 1), bias * scale + shift


def fold_batch_norm_before(weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> Affine:
    """Batch norm followed by a linear map, or by a convolution that does not pad -> one map.

    weight (out, in) or (out, in, kh, kw). With padding this would be wrong: the padded zeros come
    after the norm.
    """
    scale, shift = _batch_norm_affine(norm)
    columns = (1, -1, *[1] * (weight.dim() - 2))
    reach = (weight * shift.view(columns)).flatten(1).sum(1)
    return weight * scale.view(columns), bias + reach


def fold_residual(weight: Tensor) -> Tensor:
    """Kernel (C, 1, k, k) of `x + dw(x)` as one depthwise convolution of odd k and stride 1."""
    out = weight.clone()
    centre = weight.shape[-1] // 2
    out[:, 0, centre, centre] += 1
    return out


def fold_affine(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Affine:
    """`weight @ (scale * x + shift) + bias` as one linear map. weight (out, in)."""
    return weight * scale, bias + weight @ shift


def fold_network(reference: ReferenceNetwork, geometry: Geometry, dtype: torch.dtype = torch.float32) -> Weights:
    """All weights of the static network, folded, by stable name.

    Args:
        reference: a loaded reference network.
        geometry: sizes decide what may fold: a LayerNorm whose output is zero-padded keeps its affine.
        dtype: of the result; the arithmetic is float64.
    """
    out: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, tensor in _network(reference, geometry):
            out[name] = tensor.to(dtype).contiguous()
    return Weights(out)


def _batch_norm_affine(norm: nn.BatchNorm2d) -> Affine:
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def _affine(layer: nn.Module) -> Affine:
    """Weight and bias of a Linear or Conv2d in float64, a missing bias as zeros."""
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    weight = layer.weight.double()
    bias = weight.new_zeros(weight.shape[0]) if layer.bias is None else layer.bias.double()
    return weight, bias


def _matrix(layer: nn.Module) -> Affine:
    """A Linear or 1x1 convolution as a matrix (out, in) and a bias."""
    weight, bias = _affine(layer)
    return weight.flatten(1), bias


def _named(name: str, affine: Affine) -> Named:
    yield f"{name}.weight", affine[0]
    yield f"{name}.bias", affine[1]


def _norm(name: str, norm: nn.Module) -> Named:
    assert isinstance(norm, nn.LayerNorm)
    yield f"{name}.weight", norm.weight.double()
    yield f"{name}.bias", norm.bias.double()


def _network(reference: ReferenceNetwork, geometry: Geometry) -> Named:
    yield from _downsampling(reference)
    for i, stage in enumerate(reference.card.stages):
        blocks = reference.blocks(i)
        for j in range(stage.blocks):
            name = block_name(i, j)
            parts = {p: geometry.attentions[f"{name}.{p}"] for p in attention_parts(reference.card)}
            for key, tensor in _block(blocks[j], parts):
                yield f"{name}.{key}", tensor
    if reference.card.num_classes is None:
        for i, norm in enumerate(reference.extra_norms):
            assert isinstance(norm, FeatureNorm)
            yield from _norm(feature_name(i), norm.ln)
        return
    yield from _named("head", fold_batch_norm_before(*_affine(reference.head), reference.norm))


def _downsampling(reference: ReferenceNetwork) -> Named:
    for i, layer in enumerate(reference.downsample_layers):
        assert isinstance(layer, nn.Sequential)
        modules = list(layer)
        if isinstance(modules[0], nn.BatchNorm2d):  # the Swin-T layout norms before it downsamples
            yield from _named(f"{stage_name(i)}.downsample", fold_batch_norm_before(*_affine(modules[1]), modules[0]))
            continue
        pairs = [(a, b) for a, b in pairwise(modules) if isinstance(b, nn.BatchNorm2d)]
        for n, (conv, norm) in enumerate(pairs, 1):
            name = f"stem.conv{n}" if i == 0 else f"{stage_name(i)}.downsample"
            yield from _named(name, fold_batch_norm_after(*_affine(conv), norm))


def _block(block: nn.Module, parts: dict[str, AttentionGeometry]) -> Named:
    if isinstance(block, DoubleBlock):
        for n, norm_a, norm_m in ((1, block.norm1, block.norm2), (2, block.norm3, block.norm4)):
            pos_embed, attn, mlp = (getattr(block, f"{p}{n}") for p in ("pos_embed", "attn", "mlp"))
            yield from _depthwise_residual(f"pos_embed{n}", pos_embed)
            yield from _attention(f"attn{n}", attn, norm_a, parts[f"attn{n}"])
            yield from _conv_mlp(f"mlp{n}", mlp, norm_m)
        return
    assert isinstance(block, SingleBlock)
    if block.pos_embed is not None:
        yield from _depthwise_residual("pos_embed", block.pos_embed)
    yield from _attention("attn", block.attn, block.norm1, parts["attn"])
    yield from _named("mlp.linear1", fold_affine(*_matrix(block.mlp[0]), *_affine_of(block.norm2)))
    yield from _named("mlp.linear2", _matrix(block.mlp[-1]))


def _affine_of(norm: nn.LayerNorm) -> Affine:
    return norm.weight.double(), norm.bias.double()


def _depthwise_residual(name: str, conv: nn.Module) -> Named:
    weight, bias = _affine(conv)
    yield from _named(name, (fold_residual(weight), bias))


def _conv_mlp(name: str, mlp: ConvMLP, norm: nn.LayerNorm) -> Named:
    yield from _named(f"{name}.linear1", fold_affine(*_matrix(mlp.linear1[0]), *_affine_of(norm)))
    yield from _depthwise_residual(f"{name}.dwc", mlp.dwc)
    yield from _named(f"{name}.linear2", _matrix(mlp.linear2[0]))


def _attention(name: str, attn: nn.Module, norm: nn.LayerNorm, geometry: AttentionGeometry) -> Named:
    """One attention and the norm before it."""
    if isinstance(attn, DBRA):
        yield from _dbra(name, attn, norm, geometry)
        return
    if isinstance(attn, BRA):
        layer, proj = attn.qkv.qkv, attn.wo
    else:
        assert isinstance(attn, FullAttention)
        layer, proj = attn.qkv, attn.proj
    q, k, v = _split(layer)
    q = _scaled(q, geometry.scale)
    if geometry.kind == "bra" and not geometry.is_padded:
        q, k, v = (fold_affine(*t, *_affine_of(norm)) for t in (q, k, v))
    else:
        yield from _norm(f"{name}.norm", norm)
    for part, affine in (("q", q), ("k", k), ("v", v)):
        yield from _named(f"{name}.{part}", affine)
    yield from _named(f"{name}.lepe", _affine(attn.lepe))
    yield from _named(f"{name}.proj", _matrix(proj))


def _split(layer: nn.Module) -> tuple[Affine, Affine, Affine]:
    """The q, k and v thirds of a joint projection."""
    weight, bias = _matrix(layer)
    (wq, wk, wv), (bq, bk, bv) = weight.chunk(3), bias.chunk(3)
    return (wq, bq), (wk, bk), (wv, bv)


def _scaled(affine: Affine, scale: float) -> Affine:
    return affine[0] * scale, affine[1] * scale


def _dbra(name: str, attn: DBRA, norm: nn.LayerNorm, geometry: AttentionGeometry) -> Named:
    qkv: Sequence[Affine] = _split(attn.qkv_conv.qkv)
    if geometry.is_padded:
        yield from _norm(f"{name}.norm", norm)
    else:  # its output is sampled too, and the samples keep the affine
        qkv = [fold_affine(*affine, *_affine_of(norm)) for affine in qkv]
        yield from _norm(f"{name}.samples", norm)
    for part, affine in zip("qkv", qkv, strict=True):
        yield from _named(f"{name}.{part}", affine)
    yield from _named(f"{name}.lepe", _affine(attn.lepe1))
    conv, channel_norm, _, pointwise = attn.conv_offset_q
    assert isinstance(channel_norm, ChannelNorm)
    yield f"{name}.offset.conv.weight", _affine(conv)[0]
    yield from _norm(f"{name}.offset.norm", channel_norm.norm)
    yield f"{name}.offset.pointwise.weight", _matrix(pointwise)[0]
    yield from _named(f"{name}.agent_q", _scaled(_matrix(attn.proj_q), geometry.scale))
    yield from _named(f"{name}.unify", _matrix(attn.unifyheads1))
    yield from _conv_mlp(f"{name}.mlp", attn.mlp, attn.norm2)
    outer = _affine_of(attn.norm)
    yield from _named(f"{name}.agent_k", _scaled(fold_affine(*_matrix(attn.proj_k), *outer), geometry.scale))
    yield from _named(f"{name}.agent_v", fold_affine(*_matrix(attn.proj_v), *outer))
    yield f"{name}.table", attn.rpe_table.double()
    yield from _named(f"{name}.proj", _matrix(attn.proj_out))
