"""Read a file that torch.save wrote without running anything that it names.

torch's own `weights_only` reader does the reading. Before it starts, the file's directory and its
pickle are looked through, so that a refusal can name its reason and no oversized file takes memory:

1. a zip archive stores its entries plainly, and they fit into the file;
2. every class or function that the pickle names is either one that a plain tensor needs, or a
   well-known class without effects, such as the `argparse.Namespace` of a training run. The latter
   become empty stand-ins: neither the real class nor its contents are ever used.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from debiexport.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"
# The pickle of the number 0x1950a86a20f9469cfc6c, which torch.save wrote first before it wrote zip archives.
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
LEGACY_PICKLES = 5  # magic, version, system, the object, the keys of its storages; the numbers follow
MAX_PICKLE_BYTES = 16 * 2**20
MAX_DIRECTORY_BYTES = 16 * 2**20

_STORAGES = "Float Double Half BFloat16 Long Int Short Char Byte Bool ComplexFloat ComplexDouble"
_DTYPES = "float16 bfloat16 float32 float64 uint8 int8 int16 int32 int64 bool complex64 complex128"
# Narrower than torch's list: left out are the classes that take memory by a number in the pickle
# (bytearray, torch.Tensor, UntypedStorage, quantised tensors) and those that no weight needs.
_TENSOR_GLOBALS = frozenset(
    {
        "_codecs.encode",
        "builtins.complex",
        "builtins.set",
        "collections.Counter",
        "collections.OrderedDict",
        "torch.Size",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch.device",
        *(f"torch.{name}Storage" for name in _STORAGES.split()),
        *(f"torch.{name}" for name in _DTYPES.split()),
    }
)
_PATHS = ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
_INERT_GLOBALS = frozenset(
    {
        "argparse.Namespace",
        "builtins.frozenset",
        "datetime.datetime",
        "datetime.timedelta",
        "numpy.dtype",
        "numpy.ndarray",
        "types.SimpleNamespace",
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        *(f"pathlib.{name}" for name in _PATHS),
        *(f"pathlib._local.{name}" for name in _PATHS),  # where Python 3.13 has them
    }
)
_STRING_OPCODES = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"})


class StandIn:
    """Takes the place of every inert class: accepts its arguments and its state, and keeps neither."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def one_line(text: str, limit: int = 160) -> str:
    """`text` from a file, fit for a message: printable, on one line and not endless."""
    shown = "".join(c if c.isprintable() else "?" for c in text[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[:limit]}…"


def load_torch_file(path: Path, file: BinaryIO, size: int) -> Any:
    """What a torch.save file holds, with stand-ins in the place of training arguments and paths.

    Tensors of a zip archive stay mapped to the file; copy what is to be kept.

    Args:
        path: where `file` lies.
        file: the same file, opened for reading bytes; it starts with ZIP_MAGIC or LEGACY_MAGIC.
        size: its length in bytes.

    Raises:
        CheckpointError: the file is damaged, oversized, TorchScript, or names a class or a function
            that is neither part of a tensor nor known to be inert.
    """
    where = one_line(str(path))
    file.seek(0)
    zipped = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if zipped:
        _check_pickle(io.BytesIO(_pickle_in_zip(file, size, where)), where)
    else:
        file.seek(0)
        start = io.BytesIO(file.read(MAX_PICKLE_BYTES))
        for _ in range(LEGACY_PICKLES):
            _check_pickle(start, where)
    file.seek(0)
    try:
        return _load_zip(path) if zipped else _load(file, mmap=False)
    except Exception as error:  # a damaged file makes torch's reader raise nearly anything
        # Its UnpicklingError recommends weights_only=False, which nobody should follow.
        refused = isinstance(error, pickle.UnpicklingError)
        reason = "its pickle is not in order" if refused else one_line(str(error).partition("\n")[0])
        raise CheckpointError(
            f"{where} cannot be read ({reason or type(error).__name__}): it is damaged or cut short;"
            " copy or download it again"
        ) from error


def _load_zip(path: Path) -> Any:
    # Mapping keeps optimizer states out of memory, and a tensor cannot reach beyond the file.
    if not str(path).endswith(".safetensors"):
        return _load(str(path.absolute()), mmap=True)
    # torch.load goes by this suffix and not by the content, so it gets another name to go by.
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "checkpoint.pt")
        link.symlink_to(path.absolute())
        return _load(str(link), mmap=True)


def _load(source: str | BinaryIO, *, mmap: bool) -> Any:
    stand_ins: list[Any] = [(StandIn, name) for name in sorted(_INERT_GLOBALS)]
    with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice to those who write files; nothing for a reader of one
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)


# ----------------------------------------------------------------------------------- zip archives


def _pickle_in_zip(file: BinaryIO, size: int, where: str) -> bytes:
    """The bytes of `data.pkl`, once the archive's directory has been checked."""
    _check_directory_place(file, size, where)
    try:
        entries = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, OSError) as error:
        raise CheckpointError(
            f"{where} has a damaged zip directory ({one_line(str(error))}): copy or download it again"
        ) from error
    names = [entry.filename for entry in entries]
    root = names[0].partition("/")[0] if names else ""
    if f"{root}/constants.pkl" in names:
        raise CheckpointError(
            f"{where} is a TorchScript archive, which holds a program: save model.state_dict() with torch.save instead"
        )
    if f"{root}/data.pkl" not in names:
        first = f"its first entry is {one_line(names[0])}" if names else "it has no entries"
        raise CheckpointError(
            f"{where} is a zip archive that torch.save did not write ({first}): unpack it and give the file inside"
        )
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                f"{where} has a compressed entry {one_line(entry.filename)}, which torch.save never writes:"
                " give the file as torch.save wrote it"
            )
    total = sum(entry.file_size for entry in entries)
    # torch's reader looks names up without regard to case.
    if total > size or len({name.lower() for name in names}) != len(names):
        raise CheckpointError(
            f"{where} has {size} bytes but entries of {total} bytes, or two of one name:"
            " give the file as torch.save wrote it"
        )
    entry = entries[names.index(f"{root}/data.pkl")]
    if entry.file_size > MAX_PICKLE_BYTES:
        raise CheckpointError(
            f"{where} has a pickle of {entry.file_size} bytes; allowed are {MAX_PICKLE_BYTES}:"
            " save the weights alone with torch.save(model.state_dict(), ...)"
        )
    # Read by hand: ZipFile.read insists on checksums, which torch.save leaves out on request.
    try:
        file.seek(entry.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
        file.seek(name_length + extra_length, io.SEEK_CUR)
        return file.read(entry.file_size)
    except (struct.error, ValueError, OSError) as error:
        raise CheckpointError(f"{where} has a damaged zip directory: copy or download it again") from error


def _check_directory_place(file: BinaryIO, size: int, where: str) -> None:
    """The directory stands right before the archive's last record, in both forms of a zip.

    Then Python's reader and torch's see the same directory, and its size is known before it is read.
    """
    file.seek(max(0, size - 98))
    tail = file.read(98).rjust(98, b"\0")
    end64, locator, end = tail[:56], tail[56:76], tail[76:]
    length, offset = struct.unpack("<II", end[12:20])
    directory_end = size - 22
    if locator[:4] == b"PK\x06\x07":
        (record,) = struct.unpack("<Q", locator[8:16])
        length, offset = struct.unpack("<QQ", end64[40:56])
        directory_end = size - 98
        in_order = end64[:4] == b"PK\x06\x06" and record == directory_end
    else:
        in_order = True
    if not in_order or end[:4] != b"PK\x05\x06" or end[20:] != b"\0\0" or offset + length != directory_end:
        raise CheckpointError(
            f"{where} has no zip directory at its end: it is cut short or damaged; copy or download it again"
        )
    if length > MAX_DIRECTORY_BYTES:
        raise CheckpointError(
            f"{where} has a zip directory of {length} bytes; allowed are {MAX_DIRECTORY_BYTES}:"
            " give the file as torch.save wrote it"
        )


# ---------------------------------------------------------------------------------------- pickles


def _check_pickle(stream: io.BytesIO, where: str) -> None:
    """Read one pickle's instructions, without following them, and refuse any unknown name."""
    key = ""
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            # Later protocols have other ways to name things.
            protocol = int(str(argument)) if opcode.name == "PROTO" else opcode.proto
            if protocol > 2:
                raise CheckpointError(
                    f"{where} has pickle protocol {protocol} and torch's safe reader knows 2: save it again with"
                    " torch.save and its default protocol"
                )
            if opcode.name in _STRING_OPCODES:
                key = str(argument)  # a dict's key stands right before its value
            elif opcode.name in ("GLOBAL", "INST"):
                name = str(argument).replace(" ", ".", 1)
                if name.startswith("__builtin__."):  # protocol 2 has the names of Python 2
                    name = name.replace("__builtin__", "builtins", 1)
                if name not in _TENSOR_GLOBALS and name not in _INERT_GLOBALS:
                    raise _refusal(name, key, where)
    except (ValueError, struct.error) as error:
        raise CheckpointError(
            f"{where} has a pickle that is damaged, cut short or over {MAX_PICKLE_BYTES} bytes:"
            " copy or download it again"
        ) from error


def _refusal(name: str, key: str, where: str) -> CheckpointError:
    name, beside = one_line(name), f" at {one_line(key)!r}" if key else ""
    if name.startswith(("torch._utils._rebuild", "torch._tensor._rebuild", "torch.storage.")):
        return CheckpointError(
            f"{where} holds a quantised, sparse or otherwise special tensor{beside} ({name}):"
            " save a state dict of plain float tensors"
        )
    return CheckpointError(
        f"{where} names {name}{beside}, which is no part of a state dict and was not run: if you trust the file,"
        " load it where it was written and save model.state_dict() alone"
    )
