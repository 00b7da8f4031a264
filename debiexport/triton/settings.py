"""Whether the options of a command fit a model that is there, which keeps its settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from debiexport.errors import UsageError
from debiexport.triton.model_config import THREADS
from debiexport.triton.presets import ServingOptions
from debiexport.triton.protos import CONFIG, ModelConfig
from debiexport.triton.served import PLAN_PLATFORM
from debiexport.triton.versions import read_config


@dataclass(frozen=True)
class _Setting:
    """One field of a configuration, and what an option that was given asks of it."""

    field: str
    has: str
    asked: str
    option: str

    def __str__(self) -> str:
        return f"{self.field} is {self.has}, not {self.asked} ({self.option})"


def check_settings(folder: Path, options: ServingOptions, max_batch: int | None) -> None:
    """Refuse options that a new version would not be served by, as its model keeps its configuration.

    Args:
        folder: of the model in the repository.
        options: what is None in them was not asked for, and is not looked at.
        max_batch: likewise; it is not looked at where the model has a fixed batch.

    Raises:
        UsageError: the configuration has another value than an option asks for.
        InputError: the configuration is missing or cannot be read.
    """
    config = read_config(folder)
    settings = [*_batching(config, options, max_batch), *_running(config, options)]
    differing = [setting for setting in settings if setting.has != setting.asked]
    if differing:
        them = "that option" if len({setting.option for setting in differing}) == 1 else "those options"
        raise UsageError(
            f"{folder / CONFIG} has other settings than are asked for, and a new version does not change them:"
            f" {'; '.join(map(str, differing))}: leave {them} out, or write a new repository with another --output"
        )


def _batching(config: ModelConfig, options: ServingOptions, max_batch: int | None) -> Iterator[_Setting]:
    batching = config.dynamic_batching
    policy = batching.default_queue_policy
    preset = None if options.preset is None else f"--preset {options.preset.name}"
    if config.max_batch_size > 0:  # a fixed batch waits for no others
        if max_batch is not None:
            yield _Setting("max_batch_size", str(config.max_batch_size), str(max_batch), "--max-batch")
        option = preset if options.queue_delay_us is None else "queue_delay_us"
        if option is not None:
            delay = batching.max_queue_delay_microseconds
            yield _Setting("max_queue_delay_microseconds", str(delay), str(options.delay_us), option)
    option = preset if options.timeout_us is None else "timeout_us"
    if option is not None:
        timeout = policy.default_timeout_microseconds
        yield _Setting("default_timeout_microseconds", str(timeout), str(options.waits_us), option)
    option = preset if options.max_queue is None else "max_queue"
    if option is not None:
        yield _Setting("max_queue_size", str(policy.max_queue_size), str(options.queue), option)


def _running(config: ModelConfig, options: ServingOptions) -> Iterator[_Setting]:
    groups = config.instance_group
    if options.instances is not None:
        counts = sorted({group.count for group in groups})
        yield _Setting("the count of instance_group", _shown(counts), str(options.instances), "--instances")
    if config.platform == PLAN_PLATFORM:  # always on a GPU, and without threads
        return
    if options.gpu is not None:
        kinds = sorted({group.Kind.Name(group.kind) for group in groups})
        asked = "KIND_GPU" if options.gpu else "KIND_CPU"
        yield _Setting("the kind of instance_group", _shown(kinds), asked, "--gpu")
    if options.threads is not None:
        has = [config.parameters[THREADS].string_value] if THREADS in config.parameters else []
        yield _Setting(THREADS, _shown(has), str(options.threads), "--threads")


def _shown(values: list[object]) -> str:
    return ", ".join(map(str, values)) or "not set"
