from __future__ import annotations

from debiexport.serve.statistics import BatchTiming, Statistics


def test_nothing_has_happened() -> None:
    found = Statistics().to_dict()
    assert (found["last_inference"], found["inference_count"], found["batch_stats"]) == (0, 0, [])
    assert set(found["inference_stats"]) == {
        "success",
        "fail",
        "queue",
        "compute_input",
        "compute_infer",
        "compute_output",
        "cache_hit",
        "cache_miss",
    }


def test_every_request_is_credited_with_its_batch() -> None:
    statistics = Statistics()
    statistics.executed(3, [10, 20], BatchTiming(1, 100, 2))
    statistics.executed(1, [5], BatchTiming(1, 50, 2))
    statistics.succeeded(200)
    statistics.failed(7, "REJECTED")
    statistics.failed(8, "OTHER")
    statistics.failed(9, "OTHER")
    found = statistics.to_dict()
    assert found["last_inference"] > 1_600_000_000_000
    assert (found["inference_count"], found["execution_count"]) == (4, 2)
    parts = found["inference_stats"]
    assert parts["queue"] == {"count": 3, "ns": 35}
    assert parts["compute_infer"] == {"count": 3, "ns": 250}
    assert parts["compute_input"] == {"count": 3, "ns": 3}
    assert parts["success"] == {"count": 1, "ns": 200}
    assert parts["fail"] == {"count": 3, "ns": 24}
    assert [entry["batch_size"] for entry in found["batch_stats"]] == [1, 3]
    assert found["batch_stats"][1]["compute_infer"] == {"count": 1, "ns": 100}
    assert statistics.failures() == {"REJECTED": 1, "OTHER": 2}
