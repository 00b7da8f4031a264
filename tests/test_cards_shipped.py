"""Cards by name and by path, and every file that is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from debiexport.cards import MAX_CARD_BYTES, Card, card_names, iter_cards, load_card, shipped_checkpoint
from debiexport.errors import CardError, UsageError

OneLine = Callable[[BaseException], str]


def test_names_are_sorted_and_what_iter_gives() -> None:
    assert card_names() == tuple(sorted(card_names()))
    assert [card.name for card in iter_cards()] == list(card_names())
    assert {"debi_t", "debi_s", "debi_b", "debi_nano"} < set(card_names())
    assert {"biformer_t", "biformer_s", "biformer_b", "biformer_stl"} < set(card_names())
    assert {f"debi_{size}_{use}" for size in "tsb" for use in ("seg", "det")} < set(card_names())


@pytest.mark.parametrize(
    ("name", "regions", "image_size"),
    [
        *((f"debi_{size}_seg", 8, (512, 512)) for size in "tsb"),
        ("debi_t_det", 8, (800, 1344)),
        ("debi_s_det", 16, (800, 1344)),
        ("debi_b_det", 32, (800, 1344)),
    ],
)
def test_dense_backbones(name: str, regions: int, image_size: tuple[int, int]) -> None:
    """Their stages are the classifier's, top-k included."""
    card, classifier = load_card(name), load_card(name.rpartition("_")[0])
    assert (card.outputs, card.num_classes, card.regions) == ("features", None, regions)
    assert card.image_size == card.default_image_size == image_size
    assert card.stages == classifier.stages
    assert (classifier.outputs, classifier.num_classes, classifier.image_size) == ("logits", 1000, None)
    assert classifier.default_image_size == (224, 224)


def test_only_the_sample_has_weights() -> None:
    assert [name for name in card_names() if shipped_checkpoint(name)] == ["debi_nano"]
    assert shipped_checkpoint("unknown") is None


def test_refuses_a_large_file(tmp_path: Path, tiny_card_file: Path, tiny_card: Card, one_line: OneLine) -> None:
    path = tmp_path / "my.toml"
    content = tiny_card_file.read_bytes() + b"\n#"
    path.write_bytes(content.ljust(MAX_CARD_BYTES, b"-"))
    assert load_card(path) == tiny_card
    path.write_bytes(content.ljust(MAX_CARD_BYTES + 1, b"-"))
    with pytest.raises(CardError) as caught:
        load_card(path)
    text = one_line(caught.value)
    assert str(path) in text and f"{MAX_CARD_BYTES + 1} bytes" in text and f"at most {MAX_CARD_BYTES}" in text


@pytest.mark.parametrize("name", ["debi_x", "DEBI_T", "", ".", "missing/card.toml", "debi_t.toml", "a\0b", "a\nb"])
def test_refuses_what_is_neither_card_nor_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine
) -> None:
    """A folder is no card either; the message lists the shipped ones."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_card(name)
    text = one_line(caught.value)
    assert f"no model card {name!r}" in text
    assert all(known in text for known in (".toml", *card_names()))
    assert caught.value.exit_code == 2


def test_shipped_name_wins_over_a_file(
    tmp_path: Path, tiny_card_file: Path, tiny_card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("debi_t").write_bytes(tiny_card_file.read_bytes())
    assert load_card("debi_t").name == "debi_t"
    assert load_card("./debi_t") == tiny_card


def test_refuses_a_file_that_cannot_be_read(
    tiny_card_file: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine
) -> None:
    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(CardError, match="Permission denied") as caught:
        load_card(tiny_card_file)
    assert str(tiny_card_file) in one_line(caught.value)
