from __future__ import annotations

import re

from serving import models_of, toy_model

from debiexport.serve.metrics import metrics_text
from debiexport.serve.statistics import BatchTiming

LINE = re.compile(r'[a-z_]+\{(?:[a-z]+="[A-Za-z0-9_.-]+",?)+\} [0-9]+')


def test_the_names_and_labels_of_triton() -> None:
    models = models_of(toy_model(), toy_model(version=2))
    first, second = models
    first.statistics.executed(3, [10_000, 20_000], BatchTiming(1_000, 100_000, 2_000))
    first.statistics.succeeded(200_000)
    second.statistics.failed(7, "REJECTED")
    text = metrics_text(models)
    models.close()
    for line in (
        'nv_inference_request_success{model="toy",version="1"} 1',
        'nv_inference_request_failure{model="toy",version="2",reason="REJECTED"} 1',
        'nv_inference_request_failure{model="toy",version="1",reason="CANCELED"} 0',
        'nv_inference_count{model="toy",version="1"} 3',
        'nv_inference_exec_count{model="toy",version="1"} 1',
        'nv_inference_request_duration_us{model="toy",version="1"} 200',
        'nv_inference_queue_duration_us{model="toy",version="1"} 30',
        'nv_inference_compute_input_duration_us{model="toy",version="1"} 2',
        'nv_inference_compute_infer_duration_us{model="toy",version="1"} 200',
        'nv_inference_compute_output_duration_us{model="toy",version="1"} 4',
        'nv_inference_pending_request_count{model="toy",version="1"} 0',
    ):
        assert f"{line}\n" in text
    for line in text.splitlines():
        assert line.startswith("# ") or LINE.fullmatch(line), line
    names = re.findall(r"# TYPE (\S+)", text)
    assert len(names) == len(set(names)) == 10
