"""Kernels become PTX that any machine makes alike and any GPU since 8.0 can run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import pytest

pytest.importorskip("triton")

import triton.language as tl
from triton import jit, knobs

from debiexport.errors import DebiexportError
from debiexport.plugins import ptx
from debiexport.plugins.ptx import assemble, portable_ptx, without_debugging, without_hidden_pointers


@jit
def _halve(x):  # type: ignore[no-untyped-def]
    return x * 0.5


@jit
def scaled_sum_kernel(x_ptr, y_ptr, out_ptr, LENGTH: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < LENGTH, other=0.0)
    y = tl.load(y_ptr + at, mask=at < LENGTH, other=0.0)
    tl.store(out_ptr + at, _halve(x + y) + tl.sum(x * y), mask=at < LENGTH)


@jit
def product_kernel(x_ptr, out_ptr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, WIDTH)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    x = tl.load(x_ptr + at)
    tl.store(out_ptr + at, tl.dot(x, x, input_precision="ieee"))


SIZES = {"LENGTH": 1000, "BLOCK": 512}


@pytest.fixture
def fresh() -> Iterator[None]:
    ptx._compiled.cache_clear()
    yield
    ptx._compiled.cache_clear()


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_the_entry_takes_the_tensors_alone(dtype: str) -> None:
    made = portable_ptx(scaled_sum_kernel, [f"*{dtype}"] * 3, SIZES, warps=4, stages=2)
    assert made.name == "scaled_sum_kernel" and made.parameters == 3 and made.block_threads == 128
    header = re.search(r"\.visible \.entry scaled_sum_kernel\(([^)]*)\)\n\.reqntid 128\n", made.text)
    assert header is not None and re.findall(r"scaled_sum_kernel_param_\d+", header[1]) == [
        f"scaled_sum_kernel_param_{index}" for index in range(3)
    ]
    assert ".version 8.0\n.target sm_80\n" in made.text
    assert 0 < made.shared_memory_bytes < ptx.SHARED_MEMORY_LIMIT_BYTES
    assert made.sha256 == hashlib.sha256(made.text.encode()).hexdigest()
    assert str(made).startswith("scaled_sum_kernel: 3 pointers, 128 threads, ")


def test_pointers_count_as_aligned() -> None:
    text = portable_ptx(scaled_sum_kernel, ["*fp32"] * 3, SIZES, warps=4, stages=2).text
    assert "ld.global.v4.b32" in text and "st.global.v4.b32" in text


def test_the_text_names_no_file_and_no_line() -> None:
    text = portable_ptx(scaled_sum_kernel, ["*fp32"] * 3, SIZES, warps=4, stages=2).text
    for trace in (".file", ".loc", ".section", ".debug", "//", ".py", "/", "$L__tmp", "$L__func"):
        assert trace not in text, trace


def test_the_same_kernel_gives_the_same_text_whatever_triton_is_told_of_lines(
    fresh: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts = []
    for silent in (False, True):
        ptx._compiled.cache_clear()
        with knobs.compilation.scope(), knobs.cache.scope():
            knobs.compilation.disable_line_info = silent
            knobs.cache.dir = str(tmp_path_factory.mktemp("cache"))
            texts.append(portable_ptx(scaled_sum_kernel, ["*fp32"] * 3, SIZES, warps=4, stages=2))
    assert texts[0] == texts[1] and texts[0] is not texts[1]


def test_a_kernel_is_compiled_once_a_process() -> None:
    first = portable_ptx(scaled_sum_kernel, ["*fp32"] * 3, SIZES, warps=4, stages=2)
    again = portable_ptx(scaled_sum_kernel, ("*fp32",) * 3, dict(reversed(SIZES.items())), warps=4, stages=2)
    assert again is first
    assert portable_ptx(scaled_sum_kernel, ["*fp32"] * 3, SIZES, warps=8, stages=2).block_threads == 256


@pytest.mark.parametrize(
    ("types", "constants"),
    [
        (["*fp32"] * 2, SIZES),
        (["*fp32"] * 4, SIZES),
        (["*fp32"] * 3, {"LENGTH": 1000}),
        (["*fp32"] * 3, SIZES | {"W": 1}),
    ],
)
def test_arguments_that_are_not_the_kernels_are_refused(types: list[str], constants: dict[str, int]) -> None:
    with pytest.raises(DebiexportError, match=r"takes x_ptr, y_ptr, out_ptr, LENGTH, BLOCK; given .*do not fit"):
        portable_ptx(scaled_sum_kernel, types, constants, warps=4, stages=2)


def test_too_much_shared_memory_is_refused() -> None:
    with pytest.raises(
        DebiexportError, match=r"product_kernel takes \d{5} bytes of shared memory .* below 49152: choose"
    ):
        portable_ptx(product_kernel, ["*fp32"] * 2, {"WIDTH": 128}, warps=8, stages=1)


def test_text_that_ptxas_does_not_take_is_refused_with_its_words() -> None:
    text = portable_ptx(scaled_sum_kernel, ["*fp32"] * 3, SIZES, warps=4, stages=2).text
    for gpu in ptx.ASSEMBLED_FOR:
        assemble(text, gpu)
    with pytest.raises(
        DebiexportError, match=r"does not assemble the kernel for sm_86: .*kernel\.ptx, line \d+.*not_there"
    ):
        assemble(text.replace("ret;", "not_there;"), "sm_86")


def test_a_missing_ptxas_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptx.subprocess, "run", _raise_oserror)
    with pytest.raises(DebiexportError, match=r"ptxas .*cannot be run: .*no such file; reinstall triton"):
        assemble("", "sm_80")


def _raise_oserror(*_: object, **__: object) -> None:
    raise OSError("no such file")


BODY = "\n{\n\tld.param.b64 \t%rd1, [k_param_0];\n\tret;\n}\n"


def _entry(*names: str, kind: str = ".u64 .ptr .global .align 1") -> str:
    return ".visible .entry k(\n\t" + ",\n\t".join(f".param {kind} {name}" for name in names) + "\n)" + BODY


def test_hidden_pointers_are_taken_out() -> None:
    text = without_hidden_pointers(_entry("k_param_0", "k_param_1", "k_param_2"), 1)
    assert text == ".visible .entry k(\n\t.param .u64 .ptr .global .align 1 k_param_0\n)" + BODY


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_entry("k_param_0", "k_param_1"), "k has 2 parameters in PTX instead of 1 and 2 hidden ones"),
        (_entry("k_param_0", "a", "b", "c"), "k has 4 parameters in PTX instead of 1 and 2 hidden ones"),
        (_entry("k_param_0", "a", "b", kind=".u32"), "is not one of the pointers that Triton hides"),
        (_entry("k_param_1", "k_param_2", "k_param_0"), "k reads k_param_0, which TensorRT does not pass"),
        (_entry("a", "b", "c") + _entry("a", "b", "c"), "2 entries instead of one"),
        ("", "0 entries instead of one"),
    ],
)
def test_another_way_to_launch_is_refused(text: str, words: str) -> None:
    with pytest.raises(DebiexportError, match=words):
        without_hidden_pointers(text, 1)


def test_debugging_is_taken_out_and_code_stays() -> None:
    text = (
        "// made by\n.version 8.0\n{\n$L__func_begin0:\n\t.loc\t1 5 0  // a.py:5\n\tbra $L__BB0_1; // loop\n"
        '$L__BB0_1:\n$L__tmp3:\n\tret;\n}\n\t.file\t1 "/home/me/a.py"\n\t.section\t.debug_info\n\t{\n.b8 1\n\t}\n'
        "\t.section\t.debug_macinfo\t{\t}\n.visible .entry\n"
    )
    assert without_debugging(text) == ".version 8.0\n{\n\tbra $L__BB0_1;\n$L__BB0_1:\n\tret;\n}\n.visible .entry\n"
