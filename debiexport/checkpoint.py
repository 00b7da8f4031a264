"""Checkpoints: the files that people have, read into a verified state dict.

Read are the files of torch.save, zip archives and the older form, and safetensors, told apart by
their content. The state dict of a file is, by the first that applies, its "model", its
"state_dict", its "model_ema", or the file's dictionary itself. Of the keys,

- the prefix `module.` is taken off if every tensor has it;
- the prefix `backbone.` is taken off where it stands; other keys beside it that the network does not
  have, such as `decode_head.*`, are left out;
- entries that are no tensors, such as `epoch`, are left out;
- a missing `num_batches_tracked` is 0, for older files do not have it and inference never reads it.

Everything else must be exactly the card's, and every number finite.
"""

from __future__ import annotations

import codecs
import hashlib
import math
import os
import stat
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch

from debiexport.cards import Card
from debiexport.errors import CheckpointError, UsageError
from debiexport.fitting import check_fit, listed
from debiexport.spec import Shape, Spec, is_counter, state_dict_spec
from debiexport.unpickle import LEGACY_MAGIC, ZIP_MAGIC, StandIn, load_torch_file, one_line

MAX_FILE_BYTES = 4 * 2**30
MAX_SAFETENSORS_HEADER = 100_000_000  # the limit of the safetensors library
MAX_CLASSES = 1_000_000

_ENTRIES = ("model", "state_dict", "model_ema")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_KNOWN_STARTS = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x80", "a pickle without torch.save's header"),
    (b"version https://git-lfs", "a git-lfs pointer and not yet the file itself"),
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
)


@dataclass(frozen=True)
class Checkpoint:
    """Verified weights of a card's network.

    Attributes:
        state: float32 tensors (int64 counters) with exactly the card's keys and shapes, contiguous, on the CPU.
        card: the card, with `num_classes` as the weights have it (None where there is no head).
        sha256: of the file; None for random weights.
        description: the file's name, or "random, seed 0".
    """

    state: dict[str, torch.Tensor]
    card: Card
    sha256: str | None
    description: str

    def __str__(self) -> str:
        classes = "" if self.card.num_classes is None else f"{self.card.num_classes} classes, "
        return f"{self.card.name}, {classes}{self.description}"


def random_checkpoint(card: Card, seed: int = 0) -> Checkpoint:
    """Random weights that keep activations in range; the same with every version of torch."""
    state = {key: torch.from_numpy(_random_array(key, shape, seed)) for key, shape in state_dict_spec(card).items()}
    return Checkpoint(state, card, None, f"random, seed {seed}")


def _random_array(key: str, shape: Shape, seed: int) -> np.ndarray[Any, Any]:
    if is_counter(key):
        return np.zeros(shape, np.int64)
    z = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(shape, dtype=np.float32)
    if key.endswith("running_var"):
        return 1 + 0.25 * np.abs(z)
    if key.endswith(("running_mean", "bias")):
        return 0.1 * z
    if key.endswith("rpe_table"):
        return 0.5 * z
    if len(shape) == 1:
        return 1 + 0.1 * z
    if "conv_offset_q.3" in key:
        return 0.1 * z
    gain = 1.0 if "qkv" in key or "head" in key else 0.4
    return gain * z / math.sqrt(math.prod(shape[1:]))


def read_checkpoint(
    path: str | Path, card: Card, *, num_classes: int | None = None, exported_from: str | None = None
) -> Checkpoint:
    """Read a checkpoint of the card's network, and verify that it is one.

    The number of classes is taken from the file; a dense backbone has none. See the module for the forms that are read.

    Args:
        path: a file of torch.save or safetensors, at most 4 GiB.
        card: the network that the file is for.
        num_classes: the number of classes that the file must have; None for any, and for a dense backbone.
        exported_from: where the card is a bundle's, what its weights were read from: what to give instead of a file
            that does not fit. Without it the advice is to take another card.

    Raises:
        UsageError: `path` is not a file, or `num_classes` differs from the file's.
        CheckpointError: the file cannot be read, names code, does not fit the card, or holds numbers that
            cannot be weights; the message names the key.
    """
    path = Path(path)
    where = one_line(str(path))
    try:
        _check_file(path, where)
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            loaded = _load(path, file, before.st_size, where)
            state, ignored = _without_prefixes(_state_dict(loaded, where), card)
            if num_classes is not None:
                card.with_options(num_classes=num_classes)  # refuses it where there are no classes
            classes = _number_of_classes(state, card, where)
            if card.num_classes is not None:
                card = replace(card, num_classes=classes)
            shapes = {key: tuple(value.shape) for key, value in state.items() if isinstance(value, torch.Tensor)}
            _check_tensors(state, card, where)
            check_fit(shapes, card, where, left_out=ignored, exported_from=exported_from)
            if num_classes not in (None, classes):
                raise UsageError(
                    f"--num-classes is {num_classes}, but {where} has a head of {classes} classes:"
                    f" leave the option out or give {classes}"
                )
            verified = _verified(state, state_dict_spec(card), before.st_size, where)
        after = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"no file {where!r}: give the path of a checkpoint") from error
    except OSError as error:
        raise CheckpointError(f"{where} cannot be read ({error.strerror}): check its permissions") from error
    if (before.st_ino, before.st_size, before.st_mtime_ns) != (after.st_ino, after.st_size, after.st_mtime_ns):
        raise CheckpointError(f"{where} changed while it was read: wait until it is complete and try again")
    return Checkpoint(verified, card, sha256, one_line(path.name))


def check_file(path: str | Path) -> None:
    """Refuse what is no checkpoint file, without reading it.

    Raises:
        UsageError: no such file, or it is not a regular one.
        CheckpointError: it is too large, or cannot be looked at.
    """
    where = one_line(str(path))
    try:
        _check_file(Path(path), where)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"no file {where!r}: give the path of a checkpoint") from error
    except OSError as error:
        raise CheckpointError(f"{where} cannot be read ({error.strerror}): check its permissions") from error


# ------------------------------------------------------------------------------------------ files


def _check_file(path: Path, where: str) -> None:
    try:
        status = path.stat()
    except ValueError as error:  # a NUL in the path
        raise UsageError(f"no file {where!r}: give the path of a checkpoint") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise UsageError(f"{where} is {kind}: give the path of a checkpoint file")
    if status.st_size > MAX_FILE_BYTES:
        raise CheckpointError(
            f"{where} has {status.st_size} bytes; allowed are {MAX_FILE_BYTES}:"
            " save the weights alone with torch.save(model.state_dict(), ...)"
        )


def _load(path: Path, file: BinaryIO, size: int, where: str) -> Any:
    file.seek(0)
    start = file.read(4096)
    if not start:
        raise CheckpointError(f"{where} is empty: copy or download it again")
    if start.startswith((ZIP_MAGIC, LEGACY_MAGIC)):
        return load_torch_file(path, file, size)
    header = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{" or header > MAX_SAFETENSORS_HEADER:
        raise CheckpointError(f"{where} is {_kind(start)}: give a checkpoint that torch.save or safetensors wrote")
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # the library's own error, or torch's about a dtype
        raise CheckpointError(
            f"{where} is damaged or cut short ({one_line(str(error).partition(chr(10))[0])}): copy or download it again"
        ) from error


def _kind(start: bytes) -> str:
    for magic, kind in _KNOWN_STARTS:
        if start.lower().startswith(magic.lower()):
            return kind
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)  # a character may be cut at the end
    except UnicodeDecodeError:
        return "of an unknown format"
    return "of an unknown format" if "\0" in text else "text"


# ----------------------------------------------------------------------------------------- keys


def _state_dict(loaded: Any, where: str) -> dict[str, Any]:
    """The state dict inside of what a file holds."""
    if not isinstance(loaded, dict):
        kind = "an object" if isinstance(loaded, StandIn) else f"a {type(loaded).__name__}"
        raise CheckpointError(f"{where} holds {kind}, no state dict: save model.state_dict()")
    entry = next((entry for entry in _ENTRIES if isinstance(loaded.get(entry), dict)), None)
    state = loaded if entry is None else loaded[entry]
    if not _tensors_in(state):
        raise CheckpointError(_without_tensors(loaded, entry, where))
    for key in state:
        if not isinstance(key, str):
            raise CheckpointError(f"{where} has {_key_name(key)} as a key: save model.state_dict()")
    return dict(state)


def _tensors_in(state: Mapping[Any, Any]) -> int:
    return sum(isinstance(value, torch.Tensor) for value in state.values())


def _without_tensors(loaded: Mapping[Any, Any], entry: str | None, where: str) -> str:
    """What was found where weights are looked for, and the entries that do hold tensors."""
    state, place = (loaded, "") if entry is None else (loaded[entry], f" in {entry!r},")
    keys = f"its keys: {listed(map(_key_name, state))}" if state else "it is empty"
    found = f"{where} has no tensors{place} where weights are looked for ({keys})"
    usable = {key: n for key, value in loaded.items() if isinstance(value, dict) and (n := _tensors_in(value))}
    if not usable:
        return f"{found}: give a state dict, or one under {', '.join(map(repr, _ENTRIES))}"
    entries = listed(f"{_key_name(key)!r} ({count})" for key, count in usable.items())
    return f"{found}, there are in {entries}: save the one that is meant under 'model'"


def _key_name(key: object) -> str:
    # Only a string is written out: a file can hold tuples whose text would be without end.
    return key if isinstance(key, str) else f"a {type(key).__name__}"


def _without_prefixes(state: dict[str, Any], card: Card) -> tuple[dict[str, Any], list[str]]:
    """The state with the keys of the card's network, and the keys that were left out beside `backbone.`."""
    if all(key.startswith("module.") for key, value in state.items() if isinstance(value, torch.Tensor)):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    inside = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    if not inside:
        return state, []
    spec = state_dict_spec(card)
    beside = {key: value for key, value in state.items() if not key.startswith("backbone.")}
    return {key: value for key, value in beside.items() if key in spec} | inside, [k for k in beside if k not in spec]


def _check_tensors(state: Mapping[str, Any], card: Card, where: str) -> None:
    for key in state_dict_spec(card):
        if key in state and not isinstance(state[key], torch.Tensor):
            raise CheckpointError(f"{where} has no tensor in {key}: save model.state_dict() as it is")


def _number_of_classes(state: Mapping[str, Any], card: Card, where: str) -> int | None:
    head = state.get("head.weight")
    if not isinstance(head, torch.Tensor) or head.ndim != 2:
        return card.num_classes
    classes = head.shape[0]
    if not 1 <= classes <= MAX_CLASSES:
        raise CheckpointError(f"{where} has {classes} classes in head.weight: allowed are 1 to {MAX_CLASSES}")
    return classes


# --------------------------------------------------------------------------------------- numbers


def _verified(state: Mapping[str, torch.Tensor], spec: Spec, size: int, where: str) -> dict[str, torch.Tensor]:
    """Copies of the card's tensors in their dtypes."""
    # A few bytes with stride 0 can pose as any shape: nothing is copied before the sizes agree with the file.
    total = sum(state[key].numel() * state[key].element_size() for key in spec if key in state)
    if total > size:
        raise CheckpointError(
            f"{where} has {size} bytes but tensors of {total} bytes: save them with .contiguous() applied"
        )
    return {
        key: _converted(key, state[key], where) if key in state else torch.zeros((), dtype=torch.int64, device="cpu")
        for key in spec
    }


def _converted(key: str, tensor: torch.Tensor, where: str) -> torch.Tensor:
    counter = is_counter(key)
    if tensor.dtype not in _FLOATS and not (counter and tensor.dtype in _INTEGERS):
        raise CheckpointError(
            f"{where} has {str(tensor.dtype).removeprefix('torch.')} numbers in {key}:"
            " save the weights in float32, float16, bfloat16 or float64"
        )
    dtype = torch.int64 if tensor.dtype in _INTEGERS else torch.float32
    # A copy, because the file's tensors may be mapped to it, transposed, or part of a larger one.
    out = torch.empty(tensor.shape, dtype=dtype, device="cpu").copy_(tensor.detach())
    bad = out.numel() - np.count_nonzero(np.isfinite(out.numpy()))
    if bad:
        raise CheckpointError(
            f"{where} has {bad} of {out.numel()} numbers in {key} that are NaN, infinite or beyond float32:"
            " export a checkpoint from before the training diverged"
        )
    if key.endswith("running_var") and bool((out < 0).any()):
        raise CheckpointError(
            f"{where} has a negative variance in {key} ({float(out.min()):.6g}), whose root is NaN:"
            " export an undamaged checkpoint"
        )
    return out.to(torch.int64) if counter else out
