"""The content of a card file, checked key by key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from debiexport.cards.card import Card, PaperFigures, Provenance, Stage
from debiexport.cards.limits import (
    FAMILIES,
    INTERPOLATIONS,
    MAX_IMAGE_SIDE,
    MAX_REGIONS,
    MIN_IMAGE_SIDE,
    MIXERS,
    OUTPUTS,
)
from debiexport.cards.preprocessing import Preprocessing
from debiexport.cards.table import Table
from debiexport.errors import CardError


def parse_card(content: bytes, where: str) -> Card:
    """Parse and check the bytes of a card; `where` names them in messages.

    Raises:
        CardError: see `load_card`.
    """
    try:
        data = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # also integers of thousands of digits, and endless nesting
        raise CardError(f"{where} is not a TOML file: {error}; compare it with a shipped card") from error
    return card_from_dict(data, where)


def card_from_dict(data: Mapping[str, Any], where: str) -> Card:
    """A card from the dictionary that `Card.to_dict` writes; checked like a file."""
    table = Table(data, where)
    name = table.take("name", str)
    if not name.isidentifier() or len(name) > 64:
        raise CardError(f"{where}: name is {name!r}; it must be letters, digits and underscores, at most 64")
    family = table.choice("family", FAMILIES)
    regions = table.integer("S", 2, MAX_REGIONS)
    outputs = table.choice("outputs", OUTPUTS, default="logits")
    if outputs == "features" and family != "debiformer":
        raise CardError(f"{where}: outputs is 'features'; {family} has logits")
    num_classes = table.integer("num_classes", 1, 1_000_000) if outputs == "logits" else None
    image_size = _image_size(table)
    raw_stages = table.take("stages", list)
    if len(raw_stages) != 4:
        raise CardError(f"{where}: {len(raw_stages)} stages; a card has four [[stages]]")
    stages = tuple(_stage(raw, family, regions, f"{where}: stage {i}") for i, raw in enumerate(raw_stages, 1))
    preprocessing = _preprocessing(Table(table.take("preprocessing", dict), f"{where}: preprocessing"))
    source = Table(table.take("provenance", dict), f"{where}: provenance")
    provenance = Provenance(paper=source.take("paper", str), checkpoint=source.take("checkpoint", str))
    source.done()
    paper = None
    raw_paper = table.take("paper", dict, optional=True)
    if raw_paper is not None:
        figures = Table(raw_paper, f"{where}: paper")
        paper = PaperFigures(*(figures.take(key, float) for key in ("parameters_m", "flops_g", "top1")))
        figures.done()
    table.done()
    return Card(name, family, regions, num_classes, stages, preprocessing, provenance, paper, outputs, image_size)


def _image_size(table: Table) -> tuple[int, int] | None:
    size = table.take("image_size", list, optional=True)
    if size is None:
        return None
    if len(size) != 2 or any(type(n) is not int or not MIN_IMAGE_SIDE <= n <= MAX_IMAGE_SIDE for n in size):
        raise CardError(
            f"{table.where}: image_size is {size!r}; it must be [height, width], each {MIN_IMAGE_SIDE} to"
            f" {MAX_IMAGE_SIDE} pixels"
        )
    return size[0], size[1]


def _stage(raw: Any, family: str, regions: int, where: str) -> Stage:
    table = Table(raw, where)
    blocks = table.integer("blocks", 1, 64)
    channels = table.integer("C", 2, 8192)
    head_width = table.integer("head_width", 1, 8192)
    attention = tuple(table.take("attention", list))
    mixers = 2 if family == "debiformer" else 1
    if len(attention) != mixers or any(m not in MIXERS for m in attention):
        raise CardError(
            f"{where}: attention is {list(attention)!r}; a block of {family} has {mixers}, each one of"
            f" {', '.join(MIXERS)}"
        )
    if family == "debiformer" and "full" in attention:
        raise CardError(f"{where}: attention is {list(attention)!r}; debiformer has bra and dbra")
    if family != "debiformer" and "dbra" in attention:
        raise CardError(f"{where}: attention is {list(attention)!r}; {family} has bra and full")
    if channels % head_width:
        raise CardError(f"{where}: head_width is {head_width}; it must divide C = {channels}")
    limit = regions**2
    values: dict[str, int] = {}
    if "bra" in attention:
        values["bra_top_k"] = table.integer("bra_top_k", 1, limit)
    if "dbra" in attention:
        values["dbra_top_k"] = table.integer("dbra_top_k", 1, limit)
        values["agent_stride"] = table.integer("r", 1, 64)
        values["offset_groups"] = groups = table.integer("G", 1, channels)
        values["offset_kernel"] = kernel = table.integer("K", 1, 63)
        values["table_side"] = table.integer("q", 2, 1024)
        values["dbra_mlp_ratio"] = table.integer("dbra_mlp_ratio", 1, 16)
        if kernel % 2 == 0:
            raise CardError(f"{where}: K is {kernel}; an offset kernel is odd")
        if (channels // head_width) % groups:
            raise CardError(f"{where}: G is {groups}; it must divide the {channels // head_width} heads")
    mlp_ratio = table.integer("mlp_ratio", 1, 16)
    table.done()
    return Stage(blocks, channels, head_width, attention, mlp_ratio, **values)


def _preprocessing(table: Table) -> Preprocessing:
    resize = table.integer("resize", 8, 8192)
    crop = table.integer("crop", 8, 8192)
    if crop > resize:
        raise CardError(f"{table.where}: crop is {crop}; it must be at most resize = {resize}")
    interpolation = table.choice("interpolation", INTERPOLATIONS)
    mean, std = table.triple("mean"), table.triple("std")
    if any(not s > 0 for s in std):
        raise CardError(f"{table.where}: std is {list(std)}; every value must be above 0")
    table.done()
    return Preprocessing(resize, crop, interpolation, mean, std)
