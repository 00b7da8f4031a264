"""Rules on the warm-up: it turns what clients would find into an error of loading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from debiexport.triton.lint_model import Finding, LintedModel, type_name
from debiexport.triton.model_config import warmup_batches

WARMUP_FOLDER = "warmup"


def warmup(model: LintedModel) -> Iterator[Finding]:
    """Every sample is of the inputs' real sizes; there is one of batch 1 and one of the largest."""
    samples = model.config.model_warmup
    wanted = list(warmup_batches(max(0, model.max_batch)))
    if not samples:
        yield model.error(
            "no model_warmup: Triton finds out with the first request whether the model fits its sizes",
            f"add one for batch_size {' and '.join(map(str, wanted))}",
        )
        return
    for sample in samples:
        yield from _sample(model, sample)
    for batch in wanted:
        if not any(sample.batch_size == batch for sample in samples):
            yield model.error(
                f"no model_warmup of batch_size {batch}", "add one, so that this size is tried when loading"
            )


def _sample(model: LintedModel, sample: Any) -> Iterator[Finding]:
    what, most = f"the model_warmup {sample.name!r}", max(1, model.max_batch)
    if not 1 <= sample.batch_size <= most:
        skipped = ", so Triton skips it" if sample.batch_size == 0 else ""
        yield model.error(f"{what} has batch_size {sample.batch_size}{skipped}", f"give 1 to {most}")
    inputs = {tensor.name: tensor for tensor in model.config.input}
    for name in sorted(set(inputs) ^ set(sample.inputs)):
        missing = name in inputs
        yield model.error(
            f"{what} {'lacks the input' if missing else 'has an input that the model lacks,'} {name!r}",
            "give it exactly the model's inputs",
        )
    for name in sorted(set(inputs) & set(sample.inputs)):
        yield from _given(model, what, inputs[name], sample.inputs[name])


def _given(model: LintedModel, what: str, tensor: Any, given: Any) -> Iterator[Finding]:
    if given.data_type != tensor.data_type:
        yield model.error(
            f"{what} gives {tensor.name!r} as {type_name(given.data_type)}, the input is {type_name(tensor.data_type)}",
            "give it the input's type",
        )
    sides, theirs = list(given.dims), list(tensor.dims)
    fits = len(sides) == len(theirs) and all(b in (-1, a) for a, b in zip(sides, theirs, strict=True))
    if not fits or any(side < 1 for side in sides):
        yield model.error(
            f"{what} gives {tensor.name!r} the dims {sides}, the input has {theirs}", "give it the real sizes"
        )
    data = given.WhichOneof("input_data_type")
    if data is None:
        yield model.error(f"{what} has no data for {tensor.name!r}", "say zero_data: true")
    elif data == "random_data" and type_name(tensor.data_type) in ("TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_BF16"):
        yield model.warning(
            f"{what} fills {tensor.name!r} with random bytes, among which are floats that are no numbers",
            "say zero_data: true",
        )
    elif data == "input_data_file" and not (model.folder / WARMUP_FOLDER / given.input_data_file).is_file():
        yield model.error(
            f"{what} reads {given.input_data_file!r}, which is not in {WARMUP_FOLDER}/",
            "add it, or say zero_data: true",
        )


RULES = (warmup,)
