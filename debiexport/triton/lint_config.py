"""Rules on a configuration alone: its identity, batches, queue, instances and optimisations."""

from __future__ import annotations

from collections.abc import Iterator

from debiexport.triton.lint_model import FILENAMES, ONNXRUNTIME, TENSORRT, Finding, LintedModel
from debiexport.triton.model_config import BACKENDS

DISABLED = 2
"""Level of optimization.graph at which Triton's ONNX Runtime does nothing, though it looks like the most."""


def identity(model: LintedModel) -> Iterator[Finding]:
    config = model.config
    if config.name and config.name != model.folder.name:
        yield model.error(
            f"name is {config.name!r}, the folder's {model.folder.name!r}, and Triton refuses to load it",
            "give both the same name",
        )
    platform, backend = config.platform, config.backend
    if platform in BACKENDS and backend and backend != BACKENDS[platform]:
        yield model.error(
            f"platform {platform} does not belong to backend {backend}, and Triton refuses to load it",
            f"set backend to {BACKENDS[platform]!r}",
        )
    elif platform and platform not in BACKENDS:
        yield model.error(f"platform is {platform!r}", f"give {' or '.join(BACKENDS)}")
    elif model.backend not in FILENAMES:
        yield model.error(f"backend is {backend!r}", f"give {' or '.join(FILENAMES)}")
    elif not model.filename.endswith(suffix := "." + FILENAMES[model.backend].partition(".")[2]):
        yield model.error(
            f"default_model_filename is {model.filename!r}, which is nothing for {model.backend}",
            f"name a file that ends in {suffix}",
        )


def version_policy(model: LintedModel) -> Iterator[Finding]:
    if not model.config.HasField("version_policy"):
        yield model.warning(
            "no version_policy, so a new version puts an end to the one before it at once",
            "say latest { num_versions: 2 }",
        )
    for version in model.config.version_policy.specific.versions:
        if version not in model.versions:
            yield model.error(
                f"version_policy names version {version}, which is not there", "add its folder, or leave it out"
            )


def batches(model: LintedModel) -> Iterator[Finding]:
    config, batching = model.config, model.config.dynamic_batching
    if config.max_batch_size < 0:
        yield model.error(f"max_batch_size is {config.max_batch_size}", "give 0 for a fixed batch, or the largest")
    preferred, delay = list(batching.preferred_batch_size), batching.max_queue_delay_microseconds
    if model.max_batch <= 0 and (preferred or delay):
        yield model.error(
            "dynamic_batching wants to put batches together, but max_batch_size is 0, so each request runs alone",
            "set max_batch_size, or leave out preferred_batch_size and max_queue_delay_microseconds",
        )
    for size in preferred:
        if size <= 0 or 0 < model.max_batch < size:
            yield model.error(
                f"preferred_batch_size has {size}, max_batch_size is {model.max_batch}", "give sizes from 1 to the most"
            )


def queue(model: LintedModel) -> Iterator[Finding]:
    config, batching = model.config, model.config.dynamic_batching
    if config.HasField("sequence_batching") or config.HasField("ensemble_scheduling"):
        return
    policy, bounded = batching.default_queue_policy, "max_queue_size and default_timeout_microseconds"
    if not batching.HasField("default_queue_policy"):
        yield model.error(
            "no default_queue_policy: under overload the queue grows until the memory is full",
            f"give dynamic_batching a default_queue_policy with {bounded}; a fixed batch may have one too",
        )
        return
    if not policy.max_queue_size:
        yield model.error(
            "max_queue_size is 0, no bound: under overload the queue grows until the memory is full",
            "give the requests that may wait, as 64",
        )
    if not policy.default_timeout_microseconds:
        yield model.warning(
            "default_timeout_microseconds is 0: requests wait however long, and are answered when nobody listens",
            "give the microseconds after which a request is refused, as 1000000",
        )
    elif policy.default_timeout_microseconds <= batching.max_queue_delay_microseconds:
        yield model.error(
            f"requests expire after {policy.default_timeout_microseconds} us, before the batch that they wait for is"
            f" complete, {batching.max_queue_delay_microseconds} us",
            "wait less long for a batch, or longer for an answer",
        )
    if policy.timeout_action == policy.DELAY:
        yield model.warning(
            "timeout_action is DELAY: what has expired is put off, and still takes memory and time", "say REJECT"
        )


def instances(model: LintedModel) -> Iterator[Finding]:
    kinds = {group.Kind.Name(group.kind) for group in model.config.instance_group}
    if not kinds:
        yield model.warning(
            "no instance_group: Triton chooses, two instances on a CPU that take each other's cores, one on each GPU",
            "say instance_group { kind: KIND_CPU count: 1 }, or KIND_GPU",
        )
    for group in model.config.instance_group:
        if group.count < 1:
            yield model.warning(f"an instance_group has the count {group.count}: Triton chooses one", "give a count")
    if "KIND_AUTO" in kinds:
        yield model.warning(
            "an instance_group is KIND_AUTO: the same repository runs on CPUs here and on GPUs there",
            "say KIND_CPU or KIND_GPU",
        )
    if model.backend == TENSORRT and "KIND_CPU" in kinds:
        yield model.error("KIND_CPU for a plan, which only a GPU runs", "say KIND_GPU")
    threads = model.parameter("intra_op_thread_count")
    if model.backend == ONNXRUNTIME and "KIND_CPU" in kinds and threads in (None, "0"):
        yield model.warning(
            "no intra_op_thread_count: each instance starts a thread for every core of the machine, also in a"
            " container that may use a few",
            'say parameters { key: "intra_op_thread_count" value { string_value: "4" } }',
        )


def optimisations(model: LintedModel) -> Iterator[Finding]:
    optimization = model.config.optimization
    if model.backend == ONNXRUNTIME:
        if optimization.cuda.graphs or optimization.cuda.graph_spec:
            yield model.error(
                "optimization.cuda.graphs is for plans, ONNX Runtime takes no notice of it", "leave cuda out"
            )
        if optimization.graph.level == DISABLED:
            yield model.warning(
                "optimization.graph.level 2 disables every optimisation of ONNX Runtime",
                "leave graph out for all of them",
            )
    if model.backend == TENSORRT:
        accelerators = optimization.execution_accelerators
        if accelerators.gpu_execution_accelerator or accelerators.cpu_execution_accelerator:
            yield model.error("execution_accelerators are for ONNX models, a plan has none", "leave them out")
        for spec in optimization.cuda.graph_spec:
            good = 1 <= spec.batch_size <= model.max_batch if model.max_batch > 0 else spec.batch_size == 0
            if not good:
                yield model.error(
                    f"a graph_spec has batch_size {spec.batch_size}, max_batch_size is {model.max_batch}",
                    "give 1 to max_batch_size, and 0 where that is 0",
                )
    if model.config.response_cache.enable:
        yield model.warning(
            "response_cache is on: every image is hashed, and few are sent twice", "leave response_cache out"
        )


RULES = (identity, version_policy, batches, queue, instances, optimisations)
