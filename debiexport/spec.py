"""The keys, shapes and dtypes of a card's state dict, without building the network.

Needs no torch, so a checkpoint can be matched against every card, and parameters counted, anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from debiexport.cards import Card, Stage

Shape = tuple[int, ...]
Spec = dict[str, Shape]


def state_dict_spec(card: Card) -> Spec:
    """Shape of every tensor of a released checkpoint, by its key, block by block.

    Every tensor is float32 but `*.num_batches_tracked`, which are int64 scalars.
    """
    spec: Spec = {}
    widths = [stage.channels for stage in card.stages]
    if card.family == "biformer_stl":
        spec |= _conv("downsample_layers.0.0", widths[0], 3, 4) | _batch_norm("downsample_layers.0.1", widths[0])
        for i in (1, 2, 3):
            spec |= _batch_norm(f"downsample_layers.{i}.0", widths[i - 1])
            spec |= _conv(f"downsample_layers.{i}.1", widths[i], widths[i - 1], 2)
    else:
        half = widths[0] // 2
        spec |= _conv("downsample_layers.0.0", half, 3, 3) | _batch_norm("downsample_layers.0.1", half)
        spec |= _conv("downsample_layers.0.3", widths[0], half, 3) | _batch_norm("downsample_layers.0.4", widths[0])
        for i in (1, 2, 3):
            spec |= _conv(f"downsample_layers.{i}.0", widths[i], widths[i - 1], 3)
            spec |= _batch_norm(f"downsample_layers.{i}.1", widths[i])
    for i, stage in enumerate(card.stages):
        infix = ".blocks" if card.family == "biformer_stl" else ""
        for j in range(stage.blocks):
            spec |= dict(_block(card.family, stage, f"stages.{i}{infix}.{j}"))
    if card.num_classes is None:
        for i, width in enumerate(widths):
            spec |= _norm(f"extra_norms.{i}.ln", width)
        return spec
    return spec | _batch_norm("norm", widths[-1]) | _linear("head", card.num_classes, widths[-1])


def is_counter(key: str) -> bool:
    """Whether `key` is a batch norm's int64 step counter, which inference never reads."""
    return key.endswith("num_batches_tracked")


def count_parameters(card: Card) -> int:
    """Number of trained parameters: batch norm's running statistics and counters are not counted."""
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return sum(prod(shape) for key, shape in state_dict_spec(card).items() if not key.endswith(buffers))


def _conv(key: str, out: int, per_group: int, kernel: int, bias: bool = True) -> Spec:
    spec: Spec = {f"{key}.weight": (out, per_group, kernel, kernel)}
    if bias:
        spec[f"{key}.bias"] = (out,)
    return spec


def _linear(key: str, out: int, width: int, bias: bool = True) -> Spec:
    return {f"{key}.weight": (out, width)} | ({f"{key}.bias": (out,)} if bias else {})


def _norm(key: str, width: int) -> Spec:
    return {f"{key}.weight": (width,), f"{key}.bias": (width,)}


def _batch_norm(key: str, width: int) -> Spec:
    return _norm(key, width) | {
        f"{key}.running_mean": (width,),
        f"{key}.running_var": (width,),
        f"{key}.num_batches_tracked": (),
    }


def _conv_mlp(key: str, width: int, ratio: int) -> Spec:
    hidden = ratio * width
    return (
        _conv(f"{key}.linear1.0", hidden, width, 1)
        | _conv(f"{key}.linear2.0", width, hidden, 1)
        | _conv(f"{key}.dwc", hidden, 1, 3)
    )


def _linear_mlp(key: str, second: int, width: int, ratio: int) -> Spec:
    return _linear(f"{key}.0", ratio * width, width) | _linear(f"{key}.{second}", width, ratio * width)


def _bra(key: str, width: int) -> Spec:
    return (
        _conv(f"{key}.lepe", width, 1, 5)
        | _linear(f"{key}.qkv.qkv", 3 * width, width)
        | _linear(f"{key}.wo", width, width)
    )


def _full(key: str, width: int) -> Spec:
    return (
        _linear(f"{key}.qkv", 3 * width, width, bias=False)
        | _linear(f"{key}.proj", width, width)
        | _conv(f"{key}.lepe", width, 1, 5)
    )


def _dbra(key: str, stage: Stage) -> Spec:
    assert stage.table_side and stage.offset_groups and stage.offset_kernel and stage.dbra_mlp_ratio
    width, side = stage.channels, 2 * stage.table_side - 1
    group = width // stage.offset_groups
    spec: Spec = {f"{key}.rpe_table": (stage.heads, side, side)}
    spec |= _conv(f"{key}.lepe1", width, 1, 5)
    spec |= _conv(f"{key}.qkv_conv.qkv", 3 * width, width, 1)
    for name in ("proj_q", "proj_k", "proj_v", "proj_out", "unifyheads1"):
        spec |= _conv(f"{key}.{name}", width, width, 1)
    spec |= _conv(f"{key}.conv_offset_q.0", group, 1, stage.offset_kernel, bias=False)
    spec |= _norm(f"{key}.conv_offset_q.1.norm", group)
    spec |= _conv(f"{key}.conv_offset_q.3", 1, group, 1, bias=False)
    spec |= _norm(f"{key}.norm", width) | _norm(f"{key}.norm2", width)
    return spec | _conv_mlp(f"{key}.mlp", width, stage.dbra_mlp_ratio)


def _mixer(key: str, kind: str, stage: Stage) -> Spec:
    if kind == "bra":
        return _bra(key, stage.channels)
    return _dbra(key, stage) if kind == "dbra" else _full(key, stage.channels)


def _block(family: str, stage: Stage, key: str) -> Iterator[tuple[str, Shape]]:
    width = stage.channels
    if family == "debiformer":
        for n in (1, 2):
            yield from _conv(f"{key}.pos_embed{n}", width, 1, 3).items()
            yield from _norm(f"{key}.norm{2 * n - 1}", width).items()
            yield from _mixer(f"{key}.attn{n}", stage.attention[n - 1], stage).items()
            yield from _norm(f"{key}.norm{2 * n}", width).items()
            yield from _conv_mlp(f"{key}.mlp{n}", width, stage.mlp_ratio).items()
        return
    if family == "biformer":
        yield from _conv(f"{key}.pos_embed", width, 1, 3).items()
    yield from _norm(f"{key}.norm1", width).items()
    yield from _mixer(f"{key}.attn", stage.attention[0], stage).items()
    yield from _norm(f"{key}.norm2", width).items()
    yield from _linear_mlp(f"{key}.mlp", 2 if family == "biformer_stl" else 3, width, stage.mlp_ratio).items()
