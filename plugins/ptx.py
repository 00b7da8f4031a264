"""A Triton kernel becomes PTX that TensorRT can embed in an engine, compiled without a GPU.

Triton compiles for itself: the entry ends in two pointers that only its own launcher passes, and the text names the
files of the machine that compiled it. TensorRT passes the tensors and nothing else, and the same kernel has to give the
same engine anywhere. So the pointers and the debugging information are taken out, and ptxas assembles what is left for
every GPU that the PTX is meant for.

The target is compute capability 8.0, which newer GPUs run too; Triton's code for 9.0 runs on 9.0 alone.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel
from triton.runtime.jit import JITFunction

from debiexport.errors import DebiexportError

COMPUTE_CAPABILITY = 80
ASSEMBLED_FOR = ("sm_80", "sm_86", "sm_89", "sm_90")
"""GPUs for which the PTX is proven to assemble."""

PTX_VERSION = 80
"""PTX ISA 8.0, of CUDA 12.0: drivers refuse versions newer than theirs, and Triton writes that of its own ptxas."""

SHARED_MEMORY_LIMIT_BYTES = 48 * 1024
"""From here on a kernel has to ask the driver for its shared memory, which TensorRT does not do for a plugin."""

_HIDDEN_POINTERS = 2  # scratch memory, global and for profiling
_ALIGNMENT_BYTES = 16  # of every tensor; known, the compiler loads 16 bytes at a time
_ASSEMBLING_TIMEOUT_S = 120.0

_ENTRY = re.compile(r"\.visible\s+\.entry\s+(?P<name>\w+)\s*\((?P<parameters>[^)]*)\)")
_PARAMETER = re.compile(r"\.param\s[^,]*?(?P<name>\w+)\s*$")
_COMMENT = re.compile(r"[ \t]*//.*")
_DEBUGGING_LABEL = re.compile(r"\$L__(tmp|func_begin|func_end)\d+:")


@dataclass(frozen=True)
class Ptx:
    """A kernel as text.

    Attributes:
        name: of the entry.
        text: PTX for compute capability 8.0 and newer; the same kernel gives the same text on every machine.
        shared_memory_bytes: dynamic shared memory that a launch has to give to each block.
        block_threads: threads of a block; the entry demands exactly as many.
        parameters: pointers that the entry takes.
        sha256: of the text.
    """

    name: str
    text: str
    shared_memory_bytes: int
    block_threads: int
    parameters: int
    sha256: str

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.parameters} pointers, {self.block_threads} threads,"
            f" {self.shared_memory_bytes} bytes of shared memory, SHA-256 {self.sha256[:12]}…"
        )


def portable_ptx(
    kernel: JITFunction[Any], signature_types: Sequence[str], constants: Mapping[str, int], warps: int, stages: int
) -> Ptx:
    """Compile a kernel; the same arguments are compiled once a process.

    Args:
        kernel: its parameters are pointers, aligned to 16 bytes, and `tl.constexpr` after them.
        signature_types: of the pointers in order, in Triton's words: "*fp32", "*fp16", "*i32".
        constants: the constexprs by name.
        warps: of a block, 32 threads each.
        stages: of software pipelining.

    Raises:
        DebiexportError: the arguments are not the kernel's, it takes 48 KB of shared memory or more, or what is left
            after stripping is not valid PTX.
    """
    return _compiled(kernel, tuple(signature_types), tuple(sorted(constants.items())), warps, stages)


@cache
def _compiled(
    kernel: JITFunction[Any], types: tuple[str, ...], items: tuple[tuple[str, int], ...], warps: int, stages: int
) -> Ptx:
    constants = dict(items)
    names = list(kernel.arg_names)
    pointers = names[: len(types)]
    if sorted(names[len(types) :]) != sorted(constants):
        raise DebiexportError(
            f"{kernel.__name__} takes {', '.join(names)}; given are the types of {len(types)} pointers and constants"
            f" {', '.join(constants) or '(none)'}: the plugin and its kernel do not fit together"
        )
    signature = dict(zip(pointers, types, strict=True)) | dict.fromkeys(constants, "constexpr")
    aligned = {(index,): [["tt.divisibility", _ALIGNMENT_BYTES]] for index in range(len(pointers))}
    compiled = compile_kernel(
        ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned),
        target=GPUTarget("cuda", COMPUTE_CAPABILITY, 32),
        options={"num_warps": warps, "num_stages": stages, "ptx_version": PTX_VERSION},
    )
    metadata = compiled.metadata
    if metadata.shared >= SHARED_MEMORY_LIMIT_BYTES:
        raise DebiexportError(
            f"{metadata.name} takes {metadata.shared} bytes of shared memory a block, and a plugin's kernel has to"
            f" stay below {SHARED_MEMORY_LIMIT_BYTES}: choose smaller blocks or fewer stages than {stages}"
        )
    if metadata.global_scratch_size or metadata.profile_scratch_size:
        raise DebiexportError(f"{metadata.name} needs scratch memory, which TensorRT does not pass to a kernel")
    text = without_hidden_pointers(without_debugging(compiled.asm["ptx"]), len(pointers))
    for gpu in ASSEMBLED_FOR:
        assemble(text, gpu)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Ptx(metadata.name, text, metadata.shared, 32 * warps, len(pointers), digest)


def without_debugging(text: str) -> str:
    """PTX without comments, source lines and debugging sections, which name the files of this machine."""
    kept, section = [], False
    for line in text.splitlines():
        code = _COMMENT.sub("", line).rstrip()
        word = code.split(maxsplit=1)[0] if code.strip() else ""
        section = section or word == ".section"
        if word and not section and word not in (".loc", ".file") and not _DEBUGGING_LABEL.fullmatch(word):
            kept.append(code)
        if section and code.endswith("}"):
            section = False
    return "\n".join(kept) + "\n"


def without_hidden_pointers(text: str, pointers: int) -> str:
    """PTX whose only entry takes `pointers` parameters, without the two that Triton adds behind them.

    Raises:
        DebiexportError: there is not one entry with two parameters more, or its body reads one of the two.
    """
    entries = list(_ENTRY.finditer(text))
    if len(entries) != 1:
        raise DebiexportError(f"the kernel's PTX has {len(entries)} entries instead of one")
    entry = entries[0]
    parameters = [part.strip() for part in entry["parameters"].split(",")]
    if len(parameters) != pointers + _HIDDEN_POINTERS:
        raise DebiexportError(
            f"{entry['name']} has {len(parameters)} parameters in PTX instead of {pointers} and {_HIDDEN_POINTERS}"
            " hidden ones: this version of Triton launches kernels in another way"
        )
    body = text[entry.end() :]
    for parameter in parameters[pointers:]:
        match = _PARAMETER.search(parameter)
        if match is None or ".u64" not in parameter:
            raise DebiexportError(f"{entry['name']}: {parameter!r} is not one of the pointers that Triton hides")
        if re.search(rf"\b{match['name']}\b", body):
            raise DebiexportError(f"{entry['name']} reads {match['name']}, which TensorRT does not pass")
    kept = ",\n\t".join(parameters[:pointers])
    return f"{text[: entry.start()]}.visible .entry {entry['name']}(\n\t{kept}\n){body}"


def assemble(text: str, gpu: str) -> None:
    """Prove that PTX is valid, with the ptxas that comes with Triton.

    Args:
        text: the PTX.
        gpu: "sm_80" and the like.

    Raises:
        DebiexportError: with the words of ptxas.
    """
    with tempfile.TemporaryDirectory(prefix="debiexport-") as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(text, encoding="utf-8")
        command = [knobs.nvidia.ptxas.path, f"--gpu-name={gpu}", source.name, "-o", "kernel.cubin"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_ASSEMBLING_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise DebiexportError(f"ptxas did not assemble a kernel for {gpu} in {error.timeout:.0f} s") from error
        except OSError as error:
            raise DebiexportError(f"ptxas of triton cannot be run: {error}; reinstall triton") from error
    if done.returncode != 0:
        words = " ".join((done.stderr or done.stdout).split())
        raise DebiexportError(f"ptxas does not assemble the kernel for {gpu}: {words[:300] or done.returncode}")
