"""Label files: what is read, and every refusal."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from debiexport import labels
from debiexport.errors import DebiexportError, InputError, UsageError
from debiexport.labels import read_labels, shipped_labels

OneLine = Callable[[BaseException], str]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"cat\ndog\n", ("cat", "dog")),
        (b"cat\ndog", ("cat", "dog")),
        (b"cat\r\ndog\r\n", ("cat", "dog")),
        (b"  cat \n\tdog\n", ("cat", "dog")),
        (b"tabby cat, tabby\n1\n", ("tabby cat, tabby", "1")),
        ("Kätzchen\n犬\n".encode(), ("Kätzchen", "犬")),
        ("cat\ndog\n".encode("utf-8-sig"), ("cat", "dog")),
        (b"same\nsame\n", ("same", "same")),
    ],
    ids=["plain", "no last newline", "windows", "spaces", "commas", "unicode", "byte order mark", "repeated"],
)
def test_reads(content: bytes, expected: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    assert read_labels(path, 2) == read_labels(str(path), 2) == expected


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ("0 lines", "2 classes", "one label a line")),
        (b"cat\n", ("1 lines", "2 classes")),
        (b"cat\ndog\ncow\n", ("3 lines", "2 classes")),
        (b"cat\ndog\n\n", ("3 lines", "2 classes")),
        (b"cat\n \n", ("line 2 is empty", "give every class a label")),
        (b"\ndog\n", ("line 1 is empty",)),
        (b"\xff\xfe\n\xff", ("UTF-8", "one label a line")),
        ("cat\ndog\n".encode("utf-16"), ("UTF-8",)),
    ],
    ids=["empty", "too few", "too many", "empty end", "blank line", "blank start", "bytes", "utf-16"],
)
def test_refuses_content(content: bytes, says: tuple[str, ...], tmp_path: Path, one_line: OneLine) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_labels(path, 2)
    assert caught.value.exit_code == 4
    assert all(part in one_line(caught.value) for part in (str(path), *says))


@pytest.mark.parametrize("name", ["missing.txt", ".", "missing/labels.txt", "a\0b"])
def test_refuses_what_is_no_file(name: str, tmp_path: Path, one_line: OneLine) -> None:
    with pytest.raises(UsageError, match="not a file") as caught:
        read_labels(f"{tmp_path}/{name}", 2)
    assert "--labels" in one_line(caught.value) and "one label a line" in str(caught.value)
    assert caught.value.exit_code == 2


def test_refuses_a_fifo_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a file"):
        read_labels(tmp_path / "pipe", 2)


def test_refuses_a_huge_file_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(b"cat\ndog\n")
    monkeypatch.setattr(labels, "MAX_LABELS_BYTES", 8)
    assert read_labels(path, 2) == ("cat", "dog")
    monkeypatch.setattr(labels, "MAX_LABELS_BYTES", 7)
    with pytest.raises(InputError) as caught:
        read_labels(path, 2)
    assert all(part in one_line(caught.value) for part in (str(path), "8 bytes", "at most 7"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_refuses_an_unreadable_file(tmp_path: Path, one_line: OneLine) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(b"cat\ndog\n")
    path.chmod(0)
    with pytest.raises(DebiexportError, match="cannot be read") as caught:
        read_labels(path, 2)
    one_line(caught.value)


@pytest.mark.parametrize(
    ("card", "classes", "ships"),
    [
        ("debi_nano", 10, True),
        ("debi_nano", 9, False),
        ("debi_nano", 11, False),
        ("debi_t", 1000, False),
        ("unknown", 10, False),
        ("../models/debi_nano", 10, False),
    ],
)
def test_shipped_labels(card: str, classes: int, ships: bool) -> None:
    found = shipped_labels(card, classes)
    assert (found is not None) is ships
    if found is not None:
        assert len(found) == len(set(found)) == classes
