"""Importing this module makes the modules in benchmarks/ importable by their names, as its scripts import them."""

from __future__ import annotations

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))  # after the tests' own modules, of which one has a script's name: serving
