"""Figures in README.md are those of the committed results, which the named command reproduces."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MARKERS = re.findall(r"<!-- (benchmarks/results/([\w-]+)\.json) -->\n(.*?)(?=\n\n(?!\|)|\Z)", README, re.DOTALL)


def test_every_result_has_its_place() -> None:
    assert {path for path, _, _ in MARKERS} == {
        f"benchmarks/results/{path.name}" for path in (ROOT / "benchmarks" / "results").glob("*.json")
    }


@pytest.mark.parametrize(("path", "name", "shown"), MARKERS, ids=[name for _, name, _ in MARKERS])
def test_a_table_is_what_its_command_prints(path: str, name: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = json.loads((ROOT / path).read_text(encoding="utf-8"))
    script = data["command"].removeprefix("python ")
    assert name.startswith(Path(script).stem), "a script writes files of its own name, of each GPU one"
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location(f"benchmark_{Path(script).stem}", ROOT / script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    assert shown.strip() == module.table(data).strip()
    assert Path(script).parent == Path("benchmarks")
    assert data["environment"]["cpu"]
