"""The model configuration of a served model, in Triton's own protobuf classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from debiexport.runtimes.session import SessionOptions
from debiexport.signature import TensorSpec
from debiexport.triton.dtypes import config_type
from debiexport.triton.presets import ServingOptions
from debiexport.triton.protos import ModelConfig, classes
from debiexport.triton.served import ServedModel

LABELS = "labels.txt"
BACKENDS = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt"}
KEPT_VERSIONS = 2
"""Versions that are served: the newest, and the one before it for clients that name it and for going back. A new
version then needs no change of the policy, only its folder."""

THREADS = "intra_op_thread_count"
"""Parameter of Triton's ONNX Runtime backend: threads of one instance on a CPU."""
# Of optimization.graph in Triton's ONNX Runtime backend, whose default is everything; 2 is nothing.
GRAPH_LEVELS = {"disabled": 2, "basic": -1, "extended": 1}


def model_config(
    served: ServedModel,
    options: ServingOptions | None = None,
    versions: Mapping[int, Mapping[str, str]] | None = None,
) -> ModelConfig:
    """The configuration that a server runs a model by.

    Args:
        served: the model.
        options: None for the defaults.
        versions: the provenance of each version; None for version 1 alone, that of `served`.

    Returns:
        A `tritonclient.grpc.model_config_pb2.ModelConfig`, with nothing left for Triton to complete.

    Raises:
        MissingDependencyError: tritonclient is not installed.
        BundleError: a tensor has a type that the protocol lacks.
    """
    options = options or ServingOptions()
    config = classes().ModelConfig(
        name=served.name,
        platform=served.platform,
        backend=BACKENDS[served.platform],
        default_model_filename=served.filename,
        max_batch_size=served.max_batch,
    )
    config.version_policy.latest.num_versions = KEPT_VERSIONS
    for tensor in served.inputs:
        config.input.add(name=tensor.name, data_type=config_type(tensor.dtype), dims=config_dims(served, tensor))
    for tensor in served.outputs:
        labels = LABELS if has_labels(served, tensor) else ""
        config.output.add(
            name=tensor.name,
            data_type=config_type(tensor.dtype),
            dims=config_dims(served, tensor),
            label_filename=labels,
        )
    _add_queue(config, served, options)
    kind = "KIND_GPU" if served.is_plan or options.gpu else "KIND_CPU"
    config.instance_group.add(name="all", kind=kind, count=options.copies)
    _add_warmup(config, served)
    config.optimization.input_pinned_memory.enable = True
    config.optimization.output_pinned_memory.enable = True
    if served.is_plan:
        _add_cuda_graphs(config, served)
    else:
        _add_onnxruntime(config, served.session, options)
    # Answers are not kept: clients seldom send the same image twice, and hashing each costs time.
    config.response_cache.enable = False
    _add_parameters(config, served.interface)
    for version, provenance in sorted((versions or {1: served.provenance}).items()):
        add_provenance(config, version, provenance)
    return config


def config_dims(served: ServedModel, tensor: TensorSpec) -> list[int]:
    """The sides of a tensor as a configuration has them: without the batch where the server puts batches together."""
    sides = tensor.shape[1:] if served.max_batch else tensor.shape
    return [-1 if side is None else side for side in sides]


def has_labels(served: ServedModel, tensor: TensorSpec) -> bool:
    """Whether an output has a number for each label."""
    return served.labels is not None and len(tensor.shape) == 2 and tensor.shape[1] == len(served.labels)


def add_provenance(config: ModelConfig, version: int, provenance: Mapping[str, str]) -> None:
    """Add where a version comes from: parameters are of the whole model, so each is named as `VERSION.NAME`."""
    _add_parameters(config, {f"{version}.{name}": value for name, value in provenance.items()})


def graph_batches(served: ServedModel) -> list[int]:
    """The batches whose launches are recorded: powers of two, what the plan is tuned for, and the largest."""
    powers = [1 << i for i in range(served.max_batch.bit_length())]
    tuned = [served.tuned_batch] if served.tuned_batch and served.tuned_batch <= served.max_batch else []
    return sorted({*powers, *tuned, served.max_batch})


def untold(session: SessionOptions) -> list[str]:
    """Entries that differ from ONNX Runtime's defaults and that Triton's backend has no setting for.

    It has none for memory_reuse either, which every export turns off for a little speed: no choice of the user's.
    """
    return sorted(session.entries)


def _add_queue(config: ModelConfig, served: ServedModel, options: ServingOptions) -> None:
    """A bounded queue, also for a fixed batch, which Triton's batcher then passes on one by one."""
    batching = config.dynamic_batching
    policy = batching.default_queue_policy
    policy.timeout_action = policy.REJECT
    policy.default_timeout_microseconds = options.waits_us
    policy.allow_timeout_override = True  # a client may be less patient, never more
    policy.max_queue_size = options.queue
    if not served.max_batch:
        return
    batching.max_queue_delay_microseconds = options.delay_us
    # What a plan is tuned for is worth sending at once only where requests are made to wait for company.
    tuned = served.tuned_batch if options.delay_us else None
    preferred = {served.max_batch, *([tuned] if tuned and 1 < tuned <= served.max_batch else [])}
    batching.preferred_batch_size.extend(sorted(preferred))


def _add_warmup(config: ModelConfig, served: ServedModel) -> None:
    """Runs of the real sizes before the first client's, so that a model that does not fit them fails to load."""
    for batch in warmup_batches(served.max_batch):
        warmup = config.model_warmup.add(name=f"batch_{batch}" if served.max_batch else "fixed_batch", batch_size=batch)
        for tensor in served.inputs:
            given = warmup.inputs[tensor.name]
            given.data_type = config_type(tensor.dtype)
            given.dims.extend(config_dims(served, tensor))
            given.zero_data = True  # random bytes would be floats that are no numbers


def warmup_batches(max_batch: int) -> Iterable[int]:
    """The batches to warm up with; a fixed batch is in the dims, and counts as one."""
    return sorted({1, max_batch or 1})


def _add_cuda_graphs(config: ModelConfig, served: ServedModel) -> None:
    cuda = config.optimization.cuda
    cuda.graphs = True
    for batch in graph_batches(served) if served.max_batch else [0]:
        spec = cuda.graph_spec.add(batch_size=batch)
        for tensor in served.inputs:
            spec.input[tensor.name].dim.extend(config_dims(served, tensor))


def _add_onnxruntime(config: ModelConfig, session: SessionOptions, options: ServingOptions) -> None:
    """What the model was proven with, as far as Triton's backend can be told."""
    if session.graph_optimization_level in GRAPH_LEVELS:
        config.optimization.graph.level = GRAPH_LEVELS[session.graph_optimization_level]
    if options.gpu:
        # float32 means float32: by default convolutions and products on a GPU round their inputs to 10 bits.
        cuda = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="cuda")
        cuda.parameters["use_tf32"] = "0"
    _add_parameters(
        config,
        {
            THREADS: str(options.cpu_threads),
            "execution_mode": "1" if session.execution_mode == "parallel" else "0",
            "enable_mem_arena": "1" if session.memory_arena else "0",
            "enable_mem_pattern": "1" if session.memory_pattern else "0",
        },
    )


def _add_parameters(config: ModelConfig, parameters: Mapping[str, str]) -> None:
    for name, value in parameters.items():
        config.parameters[name].string_value = value
