"""Model cards: `models/*.toml` read once, checked, and frozen.

A card holds an architecture in the paper's symbols, its preprocessing, where its checkpoint lives
and what the paper reports. This module is the only reader of card files.

Symbols of a card and the attributes they become:

| key in TOML     | attribute         | meaning                                                        |
|-----------------|-------------------|----------------------------------------------------------------|
| `outputs`       | `outputs`         | "logits" (the default), or "features" of a dense backbone      |
| `image_size`    | `image_size`      | [H, W] in pixels if nobody says; otherwise the preprocessing's |
|                 |                   | crop                                                           |
| `S`             | `regions`         | regions per side; `S*S` regions route to each other            |
| `C`             | `channels`        | channels of a stage                                            |
| `head_width`    | `head_width`      | channels per attention head                                    |
| `attention`     | `attention`       | the mixers of one block, in order: "bra", "dbra", "full"       |
| `bra_top_k`     | `bra_top_k`       | regions that a region attends to in BRA                        |
| `dbra_top_k`    | `dbra_top_k`      | regions that an agent region attends to in DBRA                |
| `r`             | `agent_stride`    | stride of the offset network: one agent per r x r tokens       |
| `G`             | `offset_groups`   | groups of channels with offsets of their own                   |
| `K`             | `offset_kernel`   | kernel side of the offset network                              |
| `q`             | `table_side`      | the position bias table has side 2q-1                          |
| `mlp_ratio`     | `mlp_ratio`       | hidden width of a block's MLPs over C                          |
| `dbra_mlp_ratio`| `dbra_mlp_ratio`  | hidden width of the MLP inside DBRA over C                     |
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from debiexport.errors import CardError, UsageError

OUTPUTS = ("logits", "features")
FAMILIES = ("debiformer", "biformer", "biformer_stl")
MIXERS = ("bra", "dbra", "full")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
MAX_CARD_BYTES = 64 * 1024
MAX_REGIONS = 64
MIN_IMAGE_SIDE, MAX_IMAGE_SIDE = 32, 4096
MAX_NUMBER = 1e9
"""Largest number, either sign, that is no count: a mean, a deviation or a paper's figure."""


@dataclass(frozen=True)
class Stage:
    """One stage of a network; see the module's table of symbols.

    Attributes that a stage's mixers do not use are None.
    """

    blocks: int
    channels: int
    head_width: int
    attention: tuple[str, ...]
    mlp_ratio: int
    bra_top_k: int | None = None
    dbra_top_k: int | None = None
    agent_stride: int | None = None
    offset_groups: int | None = None
    offset_kernel: int | None = None
    table_side: int | None = None
    dbra_mlp_ratio: int | None = None

    @property
    def heads(self) -> int:
        return self.channels // self.head_width


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes the network's input.

    The shorter side is resized to `resize` pixels and the centre `crop` x `crop` taken; both scale
    with the image size of an export. `mean` and `std` are of RGB in [0, 1].
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_dict(self) -> dict[str, Any]:
        return {
            "resize": self.resize,
            "crop": self.crop,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }


def resize_box(preprocessing: Preprocessing, image_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the box that an image is scaled to just cover before `image_size` is cut out of it."""
    height, width = (side * preprocessing.resize // preprocessing.crop for side in image_size)
    return height, width


@dataclass(frozen=True)
class Provenance:
    """The paper of a network, and where its checkpoint is to be had."""

    paper: str
    checkpoint: str


@dataclass(frozen=True)
class PaperFigures:
    """What the paper reports: parameters in millions, FLOPs in G, ImageNet top-1 in percent."""

    parameters_m: float
    flops_g: float
    top1: float


_ARCHITECTURE = ("family", "S", "num_classes", "outputs", "stages")


@dataclass(frozen=True)
class Card:
    """A network's architecture and everything that travels with it.

    `num_classes` is None where the outputs are features.
    """

    name: str
    family: str
    regions: int
    num_classes: int | None
    stages: tuple[Stage, ...]
    preprocessing: Preprocessing
    provenance: Provenance
    paper: PaperFigures | None = None
    outputs: str = "logits"
    image_size: tuple[int, int] | None = None

    @property
    def default_image_size(self) -> tuple[int, int]:
        """(height, width) in pixels if nobody says."""
        return self.image_size or (self.preprocessing.crop, self.preprocessing.crop)

    @property
    def top_k(self) -> tuple[int, ...]:
        """Top-k of DBRA, one value per stage that has it."""
        return tuple(s.dbra_top_k for s in self.stages if s.dbra_top_k is not None)

    @property
    def bra_top_k(self) -> tuple[int, ...]:
        """Top-k of BRA, one value per stage that has it."""
        return tuple(s.bra_top_k for s in self.stages if s.bra_top_k is not None)

    def to_dict(self) -> dict[str, Any]:
        """The card in the keys of its TOML file."""
        out: dict[str, Any] = {
            "name": self.name,
            "family": self.family,
            "S": self.regions,
            "num_classes": self.num_classes,
            "outputs": self.outputs,
            "image_size": None if self.image_size is None else list(self.image_size),
            "stages": [_stage_to_dict(stage) for stage in self.stages],
            "preprocessing": self.preprocessing.to_dict(),
            "provenance": vars(self.provenance).copy(),
        }
        if self.paper is not None:
            out["paper"] = vars(self.paper).copy()
        if self.outputs == "logits":  # the default
            del out["outputs"]
        return {key: value for key, value in out.items() if value is not None}

    @property
    def architecture_sha256(self) -> str:
        """SHA-256 of everything that decides what the network computes."""
        parts = {k: v for k, v in self.to_dict().items() if k in _ARCHITECTURE}
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def with_options(
        self,
        *,
        regions: int | None = None,
        top_k: Sequence[int] | None = None,
        bra_top_k: Sequence[int] | None = None,
        num_classes: int | None = None,
    ) -> Card:
        """The same card with some choices replaced.

        Args:
            regions: regions per side S.
            top_k: top-k of DBRA, one value for each stage that has DBRA.
            bra_top_k: top-k of BRA, one value for each stage that has BRA.
            num_classes: number of classes of the head.

        Raises:
            UsageError: a value is out of range, the number of values does not fit, or there is no head.
        """
        card = self
        if regions is not None:
            if not (isinstance(regions, int) and 2 <= regions <= MAX_REGIONS):
                raise UsageError(f"--regions is {regions}: allowed are 2 to {MAX_REGIONS} regions per side")
            card = replace(card, regions=regions)
        if num_classes is not None:
            if card.num_classes is None:
                raise UsageError(
                    f"--num-classes was given, but {card.name} gives features and no classes: leave it out"
                )
            if not (isinstance(num_classes, int) and 1 <= num_classes <= 1_000_000):
                raise UsageError(f"--num-classes is {num_classes}: allowed are 1 to 1000000 classes")
            card = replace(card, num_classes=num_classes)
        stages = card.stages
        if top_k is not None:
            stages = _replace_top_k(stages, "dbra_top_k", top_k, "--top-k", "DBRA", card)
        if bra_top_k is not None:
            stages = _replace_top_k(stages, "bra_top_k", bra_top_k, "--bra-top-k", "BRA", card)
        card = replace(card, stages=stages)
        limit = card.regions**2
        for i, stage in enumerate(stages, 1):
            for option, k in (("--top-k", stage.dbra_top_k), ("--bra-top-k", stage.bra_top_k)):
                if k is not None and k > limit:
                    raise UsageError(
                        f"{option} is {k} in stage {i}: with S = {card.regions} there are {limit} regions;"
                        f" give at most {limit}"
                    )
        return card


def _replace_top_k(
    stages: tuple[Stage, ...], attribute: str, values: Sequence[int], option: str, mixer: str, card: Card
) -> tuple[Stage, ...]:
    routed = [i for i, stage in enumerate(stages) if getattr(stage, attribute) is not None]
    if not routed:
        raise UsageError(f"{option} was given, but {card.name} has no {mixer}")
    if isinstance(values, int | str) or not all(isinstance(k, int) for k in values):
        raise UsageError(f"{option} is {values!r}: give whole numbers, one for each stage that has {mixer}")
    if len(values) != len(routed):
        raise UsageError(
            f"{option} has {len(values)} values: {card.name} has {mixer} in {len(routed)} stages; give {len(routed)}"
        )
    if any(k < 1 for k in values):
        raise UsageError(f"{option} is {','.join(map(str, values))}: every value must be at least 1")
    out = list(stages)
    for i, k in zip(routed, values, strict=True):
        changed: dict[str, Any] = {attribute: k}
        out[i] = replace(out[i], **changed)
    return tuple(out)


# --------------------------------------------------------------------------------------- reading


def _models_folder() -> Traversable:
    return resources.files("debiexport.models")


def card_names() -> tuple[str, ...]:
    """Names of the cards that ship with debiexport, sorted."""
    return tuple(sorted(f.name.removesuffix(".toml") for f in _models_folder().iterdir() if f.name.endswith(".toml")))


def iter_cards() -> Iterator[Card]:
    """Every card that ships with debiexport, in the order of `card_names`."""
    return (load_card(name) for name in card_names())


def shipped_checkpoint(name: str) -> Path | None:
    """Path of the trained sample that ships with the card `name`, or None if none ships."""
    path = Path(str(_models_folder().joinpath(f"{name}.safetensors")))
    return path if path.is_file() else None


def load_card(name_or_path: str | Path) -> Card:
    """Read a card by its name or from a TOML file of one's own.

    Raises:
        UsageError: neither a shipped card nor a file has this name.
        CardError: the file is not a valid card; the message names the key, the value and what is allowed.
    """
    text = str(name_or_path)
    names = card_names()
    if text in names:
        source = _models_folder().joinpath(f"{text}.toml")
        return parse_card(source.read_bytes(), f"{text}.toml")
    path = Path(text)
    if not path.is_file():
        raise UsageError(f"no model card {text!r}: give a path to a .toml card or one of {', '.join(names)}")
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise CardError(f"{text} is {path.stat().st_size} bytes: a card has at most {MAX_CARD_BYTES}")
        return parse_card(path.read_bytes(), text)
    except OSError as error:
        raise CardError(f"{text} cannot be read ({error.strerror}): check its permissions") from error


def parse_card(content: bytes, where: str) -> Card:
    """Parse and check the bytes of a card; `where` names them in messages.

    Raises:
        CardError: see `load_card`.
    """
    try:
        data = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # also integers of thousands of digits, and endless nesting
        raise CardError(f"{where} is not a TOML file: {error}; compare it with a shipped card") from error
    return _card_from_dict(data, where)


def card_from_dict(data: Mapping[str, Any], where: str) -> Card:
    """A card from the dictionary that `Card.to_dict` writes; checked like a file."""
    return _card_from_dict(data, where)


_TYPE_NAMES = {int: "an integer", float: "a number", str: "a string", list: "a list", dict: "a table"}


class _Table:
    """One TOML table while it is read: every key is taken once, leftovers are refused."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise CardError(f"{where} is {data!r}: it must be a table")
        self._data: dict[str, Any] = dict(data)
        self._keys: list[str] = []
        self.where = where

    def take(self, key: str, kind: type, *, optional: bool = False) -> Any:
        self._keys.append(key)
        if key not in self._data:
            if optional:
                return None
            raise CardError(f"{self.where}: key {key!r} is missing; it must be {_TYPE_NAMES[kind]}")
        value = self._data.pop(key)
        accepted: Any = (int, float) if kind is float else kind
        if isinstance(value, bool) or not isinstance(value, accepted):
            raise CardError(f"{self.where}: {key} is {value!r}; it must be {_TYPE_NAMES[kind]}")
        return self._finite(key, value) if kind is float else value

    def integer(self, key: str, low: int, high: int, *, optional: bool = False) -> Any:
        value = self.take(key, int, optional=optional)
        if value is not None and not low <= value <= high:
            raise CardError(f"{self.where}: {key} is {value}; allowed are {low} to {high}")
        return value

    def choice(self, key: str, allowed: Sequence[str], *, default: str | None = None) -> str:
        given: str | None = self.take(key, str, optional=default is not None)
        value = default if given is None else given
        if value not in allowed:
            raise CardError(f"{self.where}: {key} is {value!r}; allowed are {', '.join(allowed)}")
        return str(value)

    def triple(self, key: str) -> tuple[float, float, float]:
        value: list[Any] = self.take(key, list)
        if len(value) != 3 or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in value):
            raise CardError(f"{self.where}: {key} is {value!r}; it must be three numbers, for R, G and B")
        r, g, b = (self._finite(key, v) for v in value)
        return (r, g, b)

    def _finite(self, key: str, value: float) -> float:
        """A number as a float: TOML writes a whole one without a point, and has nan and inf."""
        if not -MAX_NUMBER <= value <= MAX_NUMBER:
            raise CardError(f"{self.where}: {key} has {value}; allowed are numbers up to {MAX_NUMBER:.0f}")
        return float(value)

    def done(self) -> None:
        for key, value in self._data.items():
            raise CardError(
                f"{self.where}: unknown key {key!r} with value {value!r}; allowed are {', '.join(self._keys)}"
            )


_SYMBOLS = {
    "channels": "C",
    "agent_stride": "r",
    "offset_groups": "G",
    "offset_kernel": "K",
    "table_side": "q",
}


def _symbol(attribute: str) -> str:
    return _SYMBOLS.get(attribute, attribute)


def _stage_to_dict(stage: Stage) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for field in fields(stage):
        value = getattr(stage, field.name)
        if value is not None:
            out[_symbol(field.name)] = list(value) if isinstance(value, tuple) else value
    return out


def _card_from_dict(data: Mapping[str, Any], where: str) -> Card:
    table = _Table(data, where)
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
    preprocessing = _preprocessing(_Table(table.take("preprocessing", dict), f"{where}: preprocessing"))
    source = _Table(table.take("provenance", dict), f"{where}: provenance")
    provenance = Provenance(paper=source.take("paper", str), checkpoint=source.take("checkpoint", str))
    source.done()
    paper = None
    raw_paper = table.take("paper", dict, optional=True)
    if raw_paper is not None:
        figures = _Table(raw_paper, f"{where}: paper")
        paper = PaperFigures(*(figures.take(key, float) for key in ("parameters_m", "flops_g", "top1")))
        figures.done()
    table.done()
    return Card(name, family, regions, num_classes, stages, preprocessing, provenance, paper, outputs, image_size)


def _image_size(table: _Table) -> tuple[int, int] | None:
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
    table = _Table(raw, where)
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


def _preprocessing(table: _Table) -> Preprocessing:
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
