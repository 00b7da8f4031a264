"""Files of every form that people have, and every refusal, on a network of a few thousand weights."""

from __future__ import annotations

import argparse
import builtins
import collections
import datetime
import errno
import hashlib
import importlib
import io
import os
import pathlib
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from debiexport import checkpoint, unpickle
from debiexport.cards import Card, card_names, load_card, parse_card
from debiexport.checkpoint import Checkpoint, random_checkpoint, read_checkpoint
from debiexport.errors import CheckpointError, DebiexportError, UsageError
from debiexport.fitting import check_fit
from debiexport.spec import is_counter, state_dict_spec

State = dict[str, torch.Tensor]

ROUTED = """
[[stages]]
blocks = 1
C = {width}
head_width = 8
attention = ["bra", "dbra"]
bra_top_k = 1
dbra_top_k = 2
r = 2
G = 1
K = 3
q = 4
mlp_ratio = 1
dbra_mlp_ratio = 1
"""
REST = """
[preprocessing]
resize = 64
crop = 56
interpolation = "bicubic"
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
[provenance]
paper = "none"
checkpoint = "none"
"""


def tiny_card(name: str = "tiny", last: int = 16) -> Card:
    stages = "".join(ROUTED.format(width=width) for width in (8, 16, 16, last))
    text = f'name = "{name}"\nfamily = "debiformer"\nS = 2\nnum_classes = 5\n{stages}{REST}'
    return parse_card(text.encode(), f"{name}.toml")


CARD = tiny_card()
STATE = random_checkpoint(CARD, seed=3).state
QKV = "stages.0.0.attn1.qkv.qkv.weight"
VARIANCE = "norm.running_var"
COUNTER = "norm.num_batches_tracked"


def changed(**values: Any) -> State:
    """STATE with some entries replaced; "__" in a name stands for "."; None removes the entry."""
    state = dict(STATE)
    for name, value in values.items():
        key = name.replace("__", ".")
        if value is None:
            del state[key]
        else:
            state[key] = value
    return state


def prefixed(prefix: str, state: State | None = None) -> State:
    return {prefix + key: value for key, value in (STATE if state is None else state).items()}


def same(result: Checkpoint, expected: State = STATE) -> None:
    assert list(result.state) == list(state_dict_spec(result.card))
    for key, tensor in result.state.items():
        assert tensor.dtype == (torch.int64 if is_counter(key) else torch.float32), key
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, expected[key].to(tensor.dtype)), key


def refusal(path: str | Path, error: type[DebiexportError] = CheckpointError, **options: Any) -> str:
    """The message of the refusal, once it is known to be one printable line with the right exit code."""
    with pytest.raises(DebiexportError) as caught:
        read_checkpoint(path, CARD, **options)
    assert type(caught.value) is error
    assert caught.value.exit_code == {CheckpointError: 4, UsageError: 2}[error]
    message = str(caught.value)
    assert message.isprintable()
    assert ":" in message
    assert len(message) < 2500
    return message


def legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


# ------------------------------------------------------------------------------------- random weights


def test_random_weights_have_the_cards_keys_and_shapes() -> None:
    result = random_checkpoint(CARD, seed=3)
    assert {key: tuple(value.shape) for key, value in result.state.items()} == state_dict_spec(CARD)
    same(result)
    assert (result.sha256, result.description, result.card) == (None, "random, seed 3", CARD)
    assert str(result) == "tiny, 5 classes, random, seed 3"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("norm.running_var", lambda z: 1 + 0.25 * np.abs(z)),
        ("norm.running_mean", lambda z: 0.1 * z),
        ("head.bias", lambda z: 0.1 * z),
        ("stages.0.0.attn2.rpe_table", lambda z: 0.5 * z),
        ("stages.0.0.norm1.weight", lambda z: 1 + 0.1 * z),
        ("stages.0.0.attn2.conv_offset_q.3.weight", lambda z: 0.1 * z),
        ("stages.0.0.attn2.conv_offset_q.0.weight", lambda z: 0.4 * z / 3),
        (QKV, lambda z: z / np.sqrt(8)),
        ("head.weight", lambda z: z / 4),
        ("stages.0.0.attn1.wo.weight", lambda z: 0.4 * z / np.sqrt(8)),
    ],
)
def test_random_weights_follow_their_rules(key: str, expected: Callable[[Any], Any]) -> None:
    shape = state_dict_spec(CARD)[key]
    z = np.random.default_rng([3, zlib.crc32(key.encode())]).standard_normal(shape, dtype=np.float32)
    np.testing.assert_allclose(STATE[key].numpy(), expected(z), rtol=1e-6)


def test_random_weights_depend_on_the_seed() -> None:
    assert torch.equal(random_checkpoint(CARD).state[QKV], random_checkpoint(CARD, 0).state[QKV])
    assert not torch.equal(random_checkpoint(CARD, 1).state[QKV], STATE[QKV])
    assert STATE[COUNTER].item() == 0


# ---------------------------------------------------------------------------------------- what is read

TRAINING_ARGUMENTS = argparse.Namespace(
    lr=1e-3,
    output=pathlib.PurePosixPath("out"),
    windows=pathlib.PureWindowsPath("out"),
    here=Path("out"),
    best=np.float64(81.9),
    step=np.int64(3),
    array=np.arange(3),
    kind=np.dtype("float32"),
    tags={"a", "b"},
    frozen=frozenset({"a"}),
    raw=b"abc",
    counts=collections.Counter("aab"),
    started=datetime.datetime(2024, 1, 1),
    took=datetime.timedelta(1),
    dtype=torch.float16,
    size=torch.Size([1]),
    device=torch.device("cpu"),
    nested=argparse.Namespace(lr=2**40),
)
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3), "step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}
FORMS: dict[str, Any] = {
    "bare": STATE,
    "ordered": collections.OrderedDict(STATE),
    "model": {"model": STATE},
    "state_dict": {"state_dict": STATE, "epoch": 3},
    "model_ema": {"model_ema": STATE},
    "model before state_dict before model_ema": {
        "model_ema": {},
        "state_dict": {"x": torch.ones(1)},
        "model": STATE,
        "optimizer": OPTIMIZER,
    },
    "state_dict before model_ema": {"model_ema": {"x": torch.ones(1)}, "state_dict": STATE, "model": "debi_t"},
    "arguments": {"model": STATE, "optimizer": OPTIMIZER, "epoch": 299, "args": TRAINING_ARGUMENTS},
    "module.": prefixed("module."),
    "module. and others": {**prefixed("module."), "epoch": 3},
    "backbone.": {"state_dict": prefixed("backbone.")},
    "module.backbone.": prefixed("module.backbone."),
    "backbone. with the head beside it": {
        **prefixed("backbone.", changed(head__weight=None, head__bias=None)),
        "head.weight": STATE["head.weight"],
        "head.bias": STATE["head.bias"],
    },
    "backbone. beside another head": {**prefixed("backbone."), "decode_head.conv.weight": torch.ones(2)},
    "other entries beside": {"epoch": 3, "arch": "debi", **STATE},
    "parameters": {key: torch.nn.Parameter(v) if v.is_floating_point() else v for key, v in STATE.items()},
    "transposed": changed(head__weight=STATE["head.weight"].t().contiguous().t()),
    "part of a larger tensor": changed(head__bias=torch.cat([torch.ones(3), STATE["head.bias"]])[3:]),
    "negative bit": changed(head__bias=torch._neg_view(-STATE["head.bias"])),
    "no counters": {key: value for key, value in STATE.items() if not is_counter(key)},
    "float counter": changed(**{COUNTER.replace(".", "__"): torch.tensor(0.0)}),
    "int32 counter": changed(**{COUNTER.replace(".", "__"): torch.tensor(0, dtype=torch.int32)}),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(form: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(FORMS[form], path, _use_new_zipfile_serialization=zipped)
    result = read_checkpoint(path, CARD)
    same(result)
    assert result.card == CARD
    assert result.description == "weights.pth"
    assert result.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w", "w.onnx"])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_the_content_decides_and_not_the_name(form: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if form == "safetensors":
        path.write_bytes(safetensors.torch.save(prefixed("module.")))
    else:
        torch.save({"model": STATE}, path, _use_new_zipfile_serialization=form == "zip")
    same(read_checkpoint(str(path), CARD))


def test_a_relative_path_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(STATE, tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    same(read_checkpoint("w.safetensors", CARD))


def test_a_zip_without_checksums_is_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    same(read_checkpoint(tmp_path / "w.pth", CARD))


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(dtype: torch.dtype, form: str, tmp_path: Path) -> None:
    state = {key: value if is_counter(key) else value.to(dtype) for key, value in STATE.items()}
    if form == "safetensors":
        safetensors.torch.save_file(state, tmp_path / "w")
    else:
        torch.save(state, tmp_path / "w", _use_new_zipfile_serialization=form == "zip")
    same(read_checkpoint(tmp_path / "w", CARD), state)


def test_the_result_does_not_change_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(STATE, path)
    result = read_checkpoint(path, CARD)
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    same(result)


def test_the_number_of_classes_is_the_files(tmp_path: Path) -> None:
    state = changed(head__weight=torch.ones(7, 16), head__bias=torch.ones(7))
    torch.save(state, tmp_path / "w.pth")
    for wanted in (None, 7):
        result = read_checkpoint(tmp_path / "w.pth", CARD, num_classes=wanted)
        assert result.card == replace(CARD, num_classes=7)
        same(result, state)
    message = refusal(tmp_path / "w.pth", UsageError, num_classes=5)
    assert "--num-classes is 5" in message
    assert "give 7" in message


def test_counters_are_kept(tmp_path: Path) -> None:
    torch.save(changed(**{COUNTER.replace(".", "__"): torch.tensor(2**40)}), tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth", CARD).state[COUNTER].item() == 2**40


def test_reading_leaves_no_name_allowed(tmp_path: Path) -> None:
    before = torch.serialization.get_safe_globals()
    torch.save({"model": STATE, "args": TRAINING_ARGUMENTS}, tmp_path / "w.pth")
    read_checkpoint(tmp_path / "w.pth", CARD)
    assert torch.serialization.get_safe_globals() == before


def test_inert_classes_are_replaced_and_never_made(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"args": TRAINING_ARGUMENTS, "output": Path("x"), "best": np.float32(3)}, path)
    with path.open("rb") as file:
        loaded = unpickle.load_torch_file(path, file, path.stat().st_size)
    assert {type(value) for value in loaded.values()} == {unpickle.StandIn}
    assert vars(loaded["args"]) == {}


# ------------------------------------------------------------------------------------------ code in files


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.call


class Custom:
    pass


def attacks(marker: Path) -> dict[str, tuple[Any, str]]:
    """What an unsafe reader would run to create `marker`, and the name to be refused."""
    write = f"open({str(marker)!r}, 'w').close()"
    system = f"{os.system.__module__}.system"
    return {
        "os.system": (Call(os.system, f"touch {marker}"), system),
        "eval": (Call(eval, write.replace(".close()", "")), "builtins.eval"),
        "exec": (Call(exec, write), "builtins.exec"),
        "getattr": (Call(getattr, marker, "touch"), "builtins.getattr"),
        "open": (Call(open, str(marker), "w"), "open"),
        "import": (Call(importlib.import_module, "antigravity"), "importlib.import_module"),
        "beside arguments": ([argparse.Namespace(a=1), Call(os.system, f"touch {marker}")], system),
        "inside arguments": (argparse.Namespace(lr=Call(os.system, f"touch {marker}")), system),
        "as the state of arguments": (Call(argparse.Namespace, state={"a": Call(exec, write)}), "builtins.exec"),
        "as an argument of a path": (Call(pathlib.PurePosixPath, Call(exec, write)), "builtins.exec"),
        "method of an inert class": (Call(Path.touch, marker), "getattr"),
        "numpy": (Call(np.load, str(marker)), "numpy"),
        "torch.load": (Call(torch.load, str(marker)), "torch.serialization.load"),
        "unknown class": (Custom(), "Custom"),
        "module": (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        "a name like an inert one": (Call(argparse.ArgumentParser), "argparse.ArgumentParser"),
        "memory": (Call(bytearray, 2**40), "builtins.bytearray"),
        "memory of a tensor": (Call(torch.FloatTensor, 2**40), "torch.FloatTensor"),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("attack", attacks(Path("marker")))
def test_code_is_refused_by_name_and_not_run(attack: str, zipped: bool, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    content, name = attacks(marker)[attack]
    for number, whole in enumerate(({"model": STATE, "extra": content}, {**STATE, "head.bias": content}, content)):
        path = tmp_path / f"{number}.pth"
        torch.save(whole, path, _use_new_zipfile_serialization=zipped)
        message = refusal(path)
        assert name in message
        assert "was not run" in message
        assert not marker.exists()


def test_the_attacks_would_work(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for name in ("os.system", "eval", "exec", "open", "as the state of arguments", "as an argument of a path"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                pickle.loads(pickle.dumps(attacks(marker)[name][0]))
            except TypeError:
                assert name == "as an argument of a path"  # after the argument was made
        assert marker.exists(), name
        marker.unlink()


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_newer_pickles_are_refused_unread(zipped: bool, protocol: int, tmp_path: Path) -> None:
    content, _ = attacks(tmp_path / "marker")["os.system"]
    for whole in ({"model": content}, STATE):
        torch.save(whole, tmp_path / "w", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        message = refusal(tmp_path / "w")
        assert f"protocol {protocol}" in message or "without torch.save's header" in message
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_is_refused_unread(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(attacks(tmp_path / "marker")["os.system"][0], protocol))
    refusal(path)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(X\x05\x00\x00\x00falsetR.",
        b"(X\x05\x00\x00\x00falseios\nsystem\n.",  # INST
        b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93.",  # STACK_GLOBAL
        b"\x82\x01.",  # an extension code
        b"carg\nparse Namespace\n.",
        b"cargparse Namespace\n\n.",
        b"cargparse\nNamespace\ncos\nsystem\n0.",
    ],
)
def test_written_by_hand(code: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(unpickle.LEGACY_MAGIC + b"\x80\x02M\xe9\x03.\x80\x02}." + b"\x80\x02" + code + b"\x80\x02].")
    refusal(path)
    write_zip(path, {"w/data.pkl": b"\x80\x02" + code, "w/version": b"3\n"})
    refusal(path)


# ------------------------------------------------------------------------------------------ broken files


def write_zip(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def zip_entries(content: Any) -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"hello there\n", "is text"),
        ("größe ".encode() * 1000, "is text"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "a PNG image"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "a JPEG image"),
        (b"\x1f\x8b\x08" + b"\0" * 50, "a gzip archive"),
        (b"\0" * 5000, "of an unknown format"),
        (b"\xfe\xdc\xba" * 50, "of an unknown format"),
        (b"PK\x03\x04", "cut short"),
        (b"PK\x05\x06" + b"\0" * 18, "unknown format"),
        (unpickle.LEGACY_MAGIC, "cut short"),
        (struct.pack("<Q", 50) + b"{", "cut short"),
        (struct.pack("<Q", 2) + b"{}", "no tensors"),
        (struct.pack("<Q", 2) + b"{x", "damaged"),
        (struct.pack("<Q", 2**62) + b"{}", "unknown format"),
    ],
)
def test_content_of_another_kind(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    message = refusal(path)
    assert words in message
    assert str(path) in message


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0.01, 0.1, 0.5, 0.9, -1])
def test_a_file_cut_short(form: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    if form == "safetensors":
        safetensors.torch.save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=form == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept > 0 else -1])
    assert "cut short" in refusal(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_damage_anywhere_is_refused_or_harmless(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": {"head.weight": torch.ones(5, 16)}}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list"),
        (torch.ones(2), "holds a Tensor"),
        (3, "holds a int"),
        (None, "holds a NoneType"),
        (argparse.Namespace(a=1), "holds an object"),
        ({}, "no tensors"),
        ({"epoch": 1, "net": {"a": torch.ones(1)}}, "its keys: epoch, net"),
        ({"model": {}}, "no tensors in 'model', where weights are looked for (it is empty): give a state dict"),
        (
            {"model": {"epoch": 3, "arch": "debi"}, "model_ema": STATE, "epoch": 3},
            "no tensors in 'model', where weights are looked for (its keys: epoch, arch), there are in 'model_ema'"
            f" ({len(STATE)}): save the one that is meant under 'model'",
        ),
        ({"model_ema": {"module": STATE, "decay": 0.9}}, "no tensors in 'model_ema', where"),
        ({"net": STATE, 3: {"a": torch.ones(1)}}, f"there are in 'net' ({len(STATE)}), 'a int' (1): save"),
        ({"model": argparse.Namespace()}, "its keys: model"),
        ({(1, 2): 3, 4: 5}, "its keys: a tuple, a int"),
        ({3: torch.ones(1)}, "has a int as a key"),
        ({"a\nb" * 100: 1}, "a?b"),
        (changed(head__bias=argparse.Namespace()), "no tensor in head.bias"),
        (changed(head__bias=[1.0] * 5), "no tensor in head.bias"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_of_something_else(content: Any, words: str, zipped: bool, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert words in refusal(tmp_path / "w.pth")


def test_torchscript_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "w.pt")
    message = refusal(tmp_path / "w.pt")
    assert "TorchScript" in message
    assert "state_dict" in message


def test_other_zip_archives(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    write_zip(path, {"readme.txt": b"hello"})
    assert "its first entry is readme.txt" in refusal(path)
    write_zip(path, {"data.pkl": b"hello"})
    assert "torch.save did not write" in refusal(path)
    entries = zip_entries(STATE)
    write_zip(path, entries)
    same(read_checkpoint(path, CARD))
    write_zip(path, entries, zipfile.ZIP_DEFLATED)
    assert "compressed entry archive/data.pkl" in refusal(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"hello"
    assert "no zip directory at its end" in refusal(path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.pth"
    monkeypatch.setattr(unpickle, "_load", lambda *_, **__: pytest.fail("loaded"))
    write_zip(path, zip_entries(STATE) | {"archive/data/bomb": b"\0" * 2**24}, zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(path)
    # Entries that overlap: each is stored plainly, together they are more than the file.
    write_zip(path, {"a/data.pkl": b"}.", "a/data/0": b"\0" * 1000})
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    entry = bytes(content[directory:-22])
    more = b"".join(entry.replace(b"a/data", b"%c/data" % letter) for letter in b"bcd")
    entries = (2).to_bytes(2, "little")
    assert content[-14:-12] == entries
    end = content[-22:]
    end[8:10] = end[10:12] = (8).to_bytes(2, "little")
    end[12:16] = (len(entry) + len(more)).to_bytes(4, "little")
    path.write_bytes(content[:-22] + more + end)
    assert "entries of 4008 bytes" in refusal(path)


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    write_zip(tmp_path / "w.pth", zip_entries(STATE) | {"archive/DATA.PKL": b"\x80\x02}."})
    assert "two of one name" in refusal(tmp_path / "w.pth")


def test_a_directory_that_two_readers_would_read_differently(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(b"PK\x03\x04" + content)
    assert "no zip directory at its end" in refusal(tmp_path / "w.pth")


def test_limits_on_what_is_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(STATE, tmp_path / "z.pth")
    legacy(STATE, tmp_path / "l.pth")
    monkeypatch.setattr(unpickle, "MAX_PICKLE_BYTES", 1000)
    assert "allowed are 1000" in refusal(tmp_path / "z.pth")
    assert "over 1000 bytes" in refusal(tmp_path / "l.pth")
    monkeypatch.setattr(unpickle, "MAX_DIRECTORY_BYTES", 1000)
    assert "zip directory of" in refusal(tmp_path / "z.pth")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_tensor_larger_than_its_file(zipped: bool, tmp_path: Path) -> None:
    wide = torch.ones(1).expand(10**6, 16)
    bias = torch.ones(1).expand(10**6)
    torch.save(changed(head__weight=wide, head__bias=bias), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert "contiguous" in refusal(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_storage_larger_than_its_entry(name: str, tmp_path: Path) -> None:
    entries = zip_entries({"head.weight": torch.ones(4)})
    pickled = entries["archive/data.pkl"]
    assert pickled.count(b"K\x04") == 2  # the storage's length and the tensor's
    entries["archive/data.pkl"] = pickled.replace(b"K\x04", b"J\xff\xff\xff\x0f")
    write_zip(tmp_path / name, entries)
    refusal(tmp_path / name)


def test_a_legacy_storage_without_numbers(tmp_path: Path) -> None:
    legacy({"head.weight": torch.ones(4)}, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(content.replace(b"K\x04", b"J\xff\xff\xff\x7f"))
    refusal(tmp_path / "w.pth")


# -------------------------------------------------------------------------------------------- no file


def test_no_file(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"hello")
    for path in (tmp_path / "none.pth", tmp_path / "w.pth" / "inside", "a\0b", "", tmp_path):
        message = refusal(path, UsageError)
        assert "give the path" in message
    assert "is a folder" in refusal(tmp_path, UsageError)
    assert "none.pth" in refusal("none.pth", UsageError)
    assert "two?lines" in refusal("two\nlines", UsageError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe", UsageError)


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    torch.save(STATE, tmp_path / "w.pth")
    monkeypatch.setattr(Path, "open", denied)
    message = refusal(tmp_path / "w.pth")
    assert "Permission denied" in message
    assert "check its permissions" in message


def test_a_file_over_4_gib_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "w.pth").open("wb") as file:
        file.truncate(checkpoint.MAX_FILE_BYTES + 1)  # takes no space on the disk
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("opened"))
    assert f"has {2**32 + 1} bytes" in refusal(tmp_path / "w.pth")


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.pth"
    torch.save(STATE, path)
    verified = checkpoint._verified

    def slow(*arguments: Any) -> Any:
        result = verified(*arguments)
        os.utime(path, ns=(1, 1))
        return result

    monkeypatch.setattr(checkpoint, "_verified", slow)
    assert "changed while it was read" in refusal(path)


# ----------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (changed(norm__weight=None), ["does not fit tiny: key norm.weight is missing; give"]),
        (changed(head__weight=None, head__bias=None), ["2 keys missing (head.weight, head.bias)"]),
        (changed(head__bias=torch.ones(4)), ["key head.bias is (4,) instead of (5,); give"]),
        (changed(head__weight=torch.ones(5, 9)), ["key head.weight is (5, 9) instead of (5, 16)"]),
        (changed(head__weight=torch.ones(5, 16, 1, 1)), ["head.weight is (5, 16, 1, 1) instead of (5, 16)"]),
        (changed(head__weight=torch.ones(0, 16)), ["0 classes in head.weight"]),
        (
            changed(head__weight=torch.ones(5, 9), norm__bias=torch.ones(3)),
            ["2 keys of another shape (norm.bias (3,) instead of (16,), head.weight (5, 9) instead of (5, 16))"],
        ),
        (changed(extra__weight=torch.ones(1)), ["key extra.weight is unexpected; give"]),
        (changed(norm__weight=None, extra=torch.ones(1)), ["key norm.weight is missing, key extra is unexpected"]),
        ({"a\nb\x1b[0m" * 50: torch.ones(1)}, ["key a?b?[0m", "… is unexpected"]),
        ({f"x{i}": torch.ones(1) for i in range(7)}, ["7 keys unexpected (x0, x1, x2, x3, x4, …)"]),
        ({"backbone.norm.weight": torch.ones(16), "decode_head.x": torch.ones(1)}, ["left out", "(decode_head.x)"]),
        ({**prefixed("module."), "x": torch.ones(1)}, ["missing (downsample_layers.0.0.weight,"]),
    ],
)
def test_keys_that_do_not_fit(state: State, words: list[str], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth")
    for word in words:
        assert word in message


@pytest.mark.parametrize("counters", [True, False])
@pytest.mark.parametrize("name", card_names())
def test_the_card_that_fits_is_named(name: str, counters: bool) -> None:
    """Dense backbones of one size differ in S alone, of which the weights know nothing: all of them are named."""
    card = load_card(name)
    spec = state_dict_spec(card if card.outputs == "features" else replace(card, num_classes=12))
    names = [n for n in card_names() if state_dict_spec(load_card(n)) == state_dict_spec(card)]
    assert len(names) == (2 if card.outputs == "features" else 1)
    advice = f"this looks like {' or '.join(names)}: use --model {' or --model '.join(names)}"
    state = {k: torch.empty(s, device="meta") for k, s in spec.items() if counters or not is_counter(k)}
    with pytest.raises(CheckpointError, match=f"{advice}$"):
        check_fit({k: tuple(t.shape) for k, t in state.items()}, replace(CARD, num_classes=12), "w.pth")


def test_the_card_that_fits_is_named_from_a_file(tmp_path: Path) -> None:
    state = {key: torch.zeros(()).expand(shape) for key, shape in state_dict_spec(load_card("debi_t")).items()}
    torch.save({"model": state}, tmp_path / "w.pth")  # with stride 0: a small file
    assert "this looks like debi_t: use --model debi_t" in refusal(tmp_path / "w.pth")
    safetensors.torch.save_file({k: v for k, v in STATE.items() if k != QKV}, tmp_path / "w.safetensors")
    assert refusal(tmp_path / "w.safetensors").endswith("; give the model that it is of")


def test_advice_where_the_card_is_a_bundles(tmp_path: Path) -> None:
    """There is no other card to choose then, only another file."""
    state = {key: torch.zeros(()).expand(shape) for key, shape in state_dict_spec(load_card("debi_t")).items()}
    torch.save(state, tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth", exported_from="mine.pth")
    advice = "give the checkpoint that the bundle was exported from, mine.pth"
    assert message.endswith(f"; this looks like debi_t: {advice}")
    torch.save(changed(norm__weight=None), tmp_path / "w.pth")
    message = refusal(tmp_path / "w.pth", exported_from="mine.pth")
    assert message.endswith(f": key norm.weight is missing; {advice}")
    assert "--model" not in message
    message = refusal(tmp_path / "w.pth", exported_from="random, seed 0")
    assert message.endswith("; the bundle's weights are random, seed 0: leave the checkpoint out")


def test_a_card_of_ones_own_under_a_shipped_name() -> None:
    """It is not told to use the card that it says that it is."""
    shipped = load_card("debi_t")
    wider = tuple(replace(stage, channels=2 * stage.channels) for stage in shipped.stages)
    mine, other = replace(shipped, stages=wider), replace(shipped, stages=wider, name="mine")
    shapes = state_dict_spec(shipped)
    with pytest.raises(CheckpointError, match="does not fit your own card debi_t, which is not the shipped one: ") as e:
        check_fit(shapes, mine, "w.pth")
    assert str(e.value).endswith("; it fits the shipped card debi_t: use --model debi_t, or compare your card with it")
    with pytest.raises(CheckpointError, match=r"does not fit mine: .*; this looks like debi_t: use --model debi_t$"):
        check_fit(shapes, other, "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth does not fit debi_t: key norm\.bias is missing; give the model"):
        check_fit({key: shape for key, shape in shapes.items() if key != "norm.bias"}, shipped, "w.pth")


# --------------------------------------------------------------------------------- dense backbones


@pytest.fixture(scope="module")
def dense_state(tiny_seg_card: Card) -> State:
    return random_checkpoint(tiny_seg_card).state


def test_a_backbone_has_no_classes(tiny_seg_card: Card, dense_state: State, tmp_path: Path) -> None:
    torch.save(dense_state, tmp_path / "w.pth")
    result = read_checkpoint(tmp_path / "w.pth", tiny_seg_card)
    assert result.card == tiny_seg_card
    assert set(result.state) == set(dense_state)
    assert str(result) == "tiny_seg, w.pth"
    with pytest.raises(UsageError, match="--num-classes was given, but tiny_seg gives features"):
        read_checkpoint(tmp_path / "w.pth", tiny_seg_card, num_classes=6)


def test_the_backbone_of_a_segmenter(tiny_seg_card: Card, dense_state: State, tmp_path: Path) -> None:
    """Its decode head has classes, which are no business of the backbone."""
    beside = {"decode_head.conv_seg.weight": torch.ones(150, 8, 1, 1), "neck.0.weight": torch.ones(3)}
    state = {f"backbone.{key}": value for key, value in dense_state.items()} | beside
    torch.save({"meta": {"epoch": 3}, "state_dict": state}, tmp_path / "w.pth")
    result = read_checkpoint(tmp_path / "w.pth", tiny_seg_card)
    assert all(torch.equal(result.state[key], dense_state[key]) for key in dense_state)


@pytest.mark.parametrize("given", ["classifier", "backbone"])
def test_a_classifier_is_no_backbone(
    given: str, tiny_card: Card, tiny_seg_card: Card, dense_state: State, tmp_path: Path, one_line: Any
) -> None:
    state, card = (
        (random_checkpoint(tiny_card).state, tiny_seg_card) if given == "classifier" else (dense_state, tiny_card)
    )
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "w.pth", card)
    words = ("missing (extra_norms.0.ln.weight", "unexpected (norm.weight")
    assert all(
        word in one_line(caught.value) for word in (words if given == "classifier" else ("missing (norm.weight",))
    )


# ---------------------------------------------------------------------------------------------- numbers


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(5), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("key", "make", "words"),
    [
        ("head.bias", lambda: torch.ones(5, dtype=torch.int64), "int64 numbers in head.bias"),
        ("head.bias", lambda: torch.ones(5, dtype=torch.uint8), "uint8 numbers in head.bias"),
        ("head.bias", lambda: torch.ones(5, dtype=torch.bool), "bool numbers in head.bias"),
        ("head.bias", lambda: torch.ones(5, dtype=torch.complex64), "complex64 numbers in head.bias"),
        (COUNTER, lambda: torch.tensor(True), f"bool numbers in {COUNTER}"),
        (COUNTER, lambda: torch.tensor(float("nan")), f"1 of 1 numbers in {COUNTER}"),
        ("head.bias", quantised, "special tensor at 'head.bias'"),
        ("head.bias", lambda: torch.ones(5).to_sparse(), "'head.bias' (torch._utils._rebuild_sparse_tensor)"),
        ("head.bias", lambda: torch.ones(5, device="meta"), "'head.bias' (torch._utils._rebuild_meta"),
        ("head.bias", lambda: torch.ones(5).to(torch.float8_e4m3fn), "special tensor at 'head.bias'"),
        ("head.bias", lambda: torch.ones(5, dtype=torch.uint16), "special tensor at 'head.bias'"),
        ("head.bias", lambda: torch.tensor([1, float("nan"), 1, 1, 1]), "1 of 5 numbers in head.bias"),
        ("head.bias", lambda: torch.tensor([1, float("nan"), 1, -float("inf"), 1]), "2 of 5 numbers in head.bias"),
        ("head.bias", lambda: torch.full((5,), float("inf"), dtype=torch.float16), "5 of 5 numbers in head.bias"),
        ("head.bias", lambda: torch.full((5,), 1e300, dtype=torch.float64), "beyond float32"),
        (VARIANCE, lambda: torch.linspace(1, -0.5, 16), f"negative variance in {VARIANCE} (-0.5)"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_numbers_that_are_no_weights(
    key: str, make: Callable[[], torch.Tensor], words: str, zipped: bool, tmp_path: Path
) -> None:
    if make is quantised and not zipped:
        pytest.skip("torch does not write quantised tensors in the older form")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's about quantised and sparse tensors
        torch.save({**STATE, key: make()}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert words in refusal(tmp_path / "w.pth")


def test_the_first_key_with_nan_is_named(tmp_path: Path) -> None:
    nan = torch.full((5,), float("nan"))
    torch.save(changed(head__bias=nan, norm__weight=torch.full((16,), float("nan"))), tmp_path / "w.pth")
    assert "16 of 16 numbers in norm.weight" in refusal(tmp_path / "w.pth")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint16, torch.bool])
def test_safetensors_of_other_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    safetensors.torch.save_file(changed(head__bias=torch.ones(5).to(dtype)), tmp_path / "w")
    assert f"{str(dtype).removeprefix('torch.')} numbers in head.bias" in refusal(tmp_path / "w")


def test_nothing_of_builtins_is_allowed_that_acts() -> None:
    allowed = unpickle._TENSOR_GLOBALS | unpickle._INERT_GLOBALS
    acting = {f"builtins.{name}" for name in dir(builtins)} - {
        "builtins.set",
        "builtins.frozenset",
        "builtins.complex",
    }
    assert not allowed & acting
    # What torch allows by itself takes precedence over a stand-in; so a stand-in is for nothing that torch allows.
    assert not unpickle._TENSOR_GLOBALS & unpickle._INERT_GLOBALS
