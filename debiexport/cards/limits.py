"""What a card may say: its choices and its largest numbers."""

from __future__ import annotations

OUTPUTS = ("logits", "features")
FAMILIES = ("debiformer", "biformer", "biformer_stl")
MIXERS = ("bra", "dbra", "full")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
MAX_CARD_BYTES = 64 * 1024
MAX_REGIONS = 64
MIN_IMAGE_SIDE, MAX_IMAGE_SIDE = 32, 4096
MAX_NUMBER = 1e9
"""Largest number, either sign, that is no count: a mean, a deviation or a paper's figure."""
