"""The exceptions debiexport raises on purpose, and the exit code each one owns.

    DebiexportError            1   a bug of ours, or a failure that nobody foresaw
    ├── UsageError             2   an option's value: a size, a name, an output folder
    │   └── OutputError        2   a place that cannot be written
    ├── ParityError            3   the artifact does not compute what the checkpoint means
    ├── InputError             4   a file's content
    │   ├── CardError          4   a model card
    │   ├── CheckpointError    4   a checkpoint
    │   ├── BundleError        4   a bundle, or a file inside one
    │   └── ImageError         4   an image
    ├── MissingDependencyError 5   a package or a platform that is not here
    ├── EngineError            1   TensorRT refuses the graph, or fails to build it
    └── Interrupted          130   Ctrl-C or SIGTERM

A message is one line that says what happened, with which value, and what to do next.
"""

from __future__ import annotations


class DebiexportError(Exception):
    """Root of every exception that debiexport raises on purpose."""

    exit_code = 1


class UsageError(DebiexportError):
    """An option or argument has a value that cannot be used."""

    exit_code = 2


class OutputError(UsageError):
    """The place named for the output exists already, or cannot be written."""


class ParityError(DebiexportError):
    """The artifact's numbers or routes are not those of the reference network."""

    exit_code = 3


class InputError(DebiexportError):
    """A file's content is not what it has to be."""

    exit_code = 4


class CardError(InputError):
    """A model card has an unknown key, a wrong type or an impossible combination."""


class CheckpointError(InputError):
    """A checkpoint cannot be read, is unsafe, or belongs to another network."""


class BundleError(InputError):
    """A bundle is incomplete, altered or of an unknown format."""


class ImageError(InputError):
    """A file is not an image, or would decode to too many pixels."""


class MissingDependencyError(DebiexportError):
    """A package or a platform that the request needs is not here."""

    exit_code = 5


class EngineError(DebiexportError):
    """TensorRT refuses the graph that it was given, or its process fails while it builds an engine."""


class Interrupted(DebiexportError):
    """The user (Ctrl-C) or the system (SIGTERM) asked the program to stop."""

    exit_code = 130
