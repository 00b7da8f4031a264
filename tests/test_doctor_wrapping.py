"""Lines that fit a terminal, and commands that stay whole."""

from __future__ import annotations

from debiexport.doctor.wrapping import WIDTH, wrapped


def test_a_short_line_stays() -> None:
    assert wrapped("predict: ok") == ["  predict: ok"]
    assert wrapped("predict: ok", indent="") == ["predict: ok"]


def test_a_long_line_is_broken_at_spaces_and_indented() -> None:
    words = "word-with-hyphens " * 20
    lines = wrapped(words)
    assert len(lines) > 2
    assert max(map(len, lines)) <= WIDTH
    assert [len(line) - len(line.lstrip()) for line in lines] == [2] + [6] * (len(lines) - 1)
    assert " ".join(" ".join(lines).split()) == words.strip()


def test_commands_stay_whole() -> None:
    first, second = "pip uninstall --yes onnxruntime onnxruntime-gpu", f"pip install {'x' * WIDTH}"
    for padding in range(WIDTH):
        lines = wrapped(f"{'a' * padding} run: {first} && {second} (a note)", [first, second])
        assert any(first in line for line in lines)
        assert any(second in line for line in lines)
        assert not [line for line in lines if line.lstrip().startswith("&&")], "a shell would stop before it"


def test_a_command_inside_of_another() -> None:
    short, long = "pip install a", "pip install a b c d"
    for padding in range(WIDTH):
        assert any(long in line for line in wrapped(f"{'a' * padding} {long}; {short}", [short, long]))
