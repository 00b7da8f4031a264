"""What a manifest keeps of an engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from debiexport.errors import BundleError
from debiexport.targets.tensorrt.fingerprint import Fingerprint
from debiexport.targets.tensorrt.profile import Profile
from debiexport.targets.tensorrt.record import EngineRecord

OneLine = Callable[[BaseException], str]
RECORD = EngineRecord(
    "model-b1-4-8.onnx", Fingerprint("rtx", "1.7.1.116", None, ("8.0", "12.0")), Profile(1, 4, 8), {"layers": 12}
)


def test_a_record_survives_the_manifest() -> None:
    data = json.loads(json.dumps(RECORD.to_dict()))
    assert list(data) == ["model", "fingerprint", "profile", "contents"]
    assert EngineRecord.from_dict(data) == RECORD


@pytest.mark.parametrize("data", [None, [], "model.onnx", 3, {}, {"model": "model.onnx"}])
def test_what_is_no_record(one_line: OneLine, data: Any) -> None:
    with pytest.raises(BundleError) as caught:
        EngineRecord.from_dict(data)
    assert one_line(caught.value) == "the manifest's entry of an engine is damaged: export again"


@pytest.mark.parametrize("key", ["model", "fingerprint", "profile", "contents"])
@pytest.mark.parametrize("value", [None, 3, [], "x y", {"a": 1}])
def test_a_damaged_record(one_line: OneLine, key: str, value: Any) -> None:
    data = {**RECORD.to_dict(), key: value}
    if (key, type(value)) in (("model", str), ("contents", dict)):  # free in content
        EngineRecord.from_dict(data)
        return
    with pytest.raises(BundleError) as caught:
        EngineRecord.from_dict(data)
    assert "export again" in one_line(caught.value) and caught.value.exit_code == 4


def test_a_key_too_many_or_too_few() -> None:
    for data in ({**RECORD.to_dict(), "more": 1}, {k: v for k, v in RECORD.to_dict().items() if k != "contents"}):
        with pytest.raises(BundleError, match="is damaged"):
            EngineRecord.from_dict(data)
