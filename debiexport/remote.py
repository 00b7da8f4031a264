"""Classify images with a server of the Open Inference Protocol, Triton or debiexport's own.

Neither torch nor the bundle is needed; images are prepared here, as the server's configuration of the model says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from debiexport.errors import DebiexportError
from debiexport.image_batches import IMAGES_AT_ONCE, ImageFailure, image_batches
from debiexport.names import LOGITS
from debiexport.prediction import Prediction, PredictResult, check_request, prediction_of
from debiexport.preprocess import load_image
from debiexport.remote_connection import Answer, Connection
from debiexport.remote_model import RemoteModel, read_model, weight_notes
from debiexport.runtimes.base import Array
from debiexport.signature import IMAGES


def predict_remote(
    server: str, model: str, images: Sequence[str | Path], *, top: int = 5, keep_going: bool = False
) -> PredictResult:
    """Classify image files with a served model; the counterpart of `debiexport.predict`.

    Args:
        server: host:port of HTTP, or grpc://host:port.
        model: its name; the newest version of it answers.
        images: files that pillow reads.
        top: classes per image.
        keep_going: list files that cannot be used in the result's `failures`, and predict the others; otherwise the
            first one is raised.

    Raises:
        UsageError: no images, `top` below 1, a file that does not exist, no server at the address, no such model there,
            or one that debiexport did not export or that has no classes.
        ImageError: a file is not an image, or decodes to too many pixels.
        InputError: the server's configuration of the model does not fit together.
        MissingDependencyError: tritonclient is not installed.
        DebiexportError: the server is overloaded, or fails.
    """
    check_request(images, top)
    with Connection(server) as connection:
        config = connection.config(model)
        served = read_model(config, connection.server)
        failures: list[ImageFailure] = []
        versions: set[str] = set()
        predictions: list[Prediction] = []
        for positions, answer in _answers(connection, served, images, failures if keep_going else None):
            versions.add(answer.version)
            for position, row in zip(positions, answer.output[: len(positions)], strict=True):
                predictions.append(prediction_of(images[position], row, served.labels, top))
    notes = [note for version in sorted(versions) for note in weight_notes(config, version, connection.server)]
    return PredictResult(tuple(predictions), tuple(notes), tuple(failures))


def _answers(
    connection: Connection, model: RemoteModel, files: Sequence[str | Path], failures: list[ImageFailure] | None
) -> Iterator[tuple[list[int], Answer]]:
    """Positions of files and the server's answer to them, in batches that the model takes. Where it takes only one, a
    short batch is filled up, and its answer is longer. A file that cannot be used is appended to `failures`, or raised.
    """

    def load(file: str | Path) -> Array:
        return load_image(file, model.preprocessing, model.image_size, model.input)

    at_most = min(model.max_batch, IMAGES_AT_ONCE)
    for positions, images in image_batches(files, load, failures, batch=model.batch, at_most=at_most):
        answer = connection.infer(model.name, IMAGES, images.astype(model.dtype), LOGITS)
        if answer.output.shape != (len(images), model.classes):
            raise DebiexportError(
                f"{connection.server} answers {len(images)} images of {model.name!r} with numbers of the shape"
                f" {answer.output.shape}, not {(len(images), model.classes)}: look at the server's log"
            )
        yield positions, answer
