"""What a manifest keeps of an engine: which model it was made of, what it is bound to, and what was proven of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from debiexport.bundle import Bundle
from debiexport.errors import BundleError
from debiexport.manifest import Artifact
from debiexport.targets.tensorrt.fingerprint import Fingerprint
from debiexport.targets.tensorrt.profile import Profile


@dataclass(frozen=True)
class EngineRecord:
    """An engine in a bundle.

    Attributes:
        model: path of the ONNX model in the bundle.
        fingerprint: TensorRT and GPUs that it runs with.
        profile: the batches that it takes.
        contents: what the builder or the inspector says of its layers.
    """

    model: str
    fingerprint: Fingerprint
    profile: Profile
    contents: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "fingerprint": self.fingerprint.to_dict(),
            "profile": self.profile.to_dict(),
            "contents": self.contents,
        }

    @classmethod
    def from_dict(cls, data: Any) -> EngineRecord:
        """What `to_dict` wrote.

        Raises:
            BundleError: it did not write that.
        """
        keys = {"model", "fingerprint", "profile", "contents"}
        if not isinstance(data, Mapping) or set(data) != keys or not isinstance(data["model"], str):
            raise BundleError("the manifest's entry of an engine is damaged: export again")
        if not isinstance(data["contents"], dict):
            raise BundleError("the manifest's entry of an engine has no contents: export again")
        return cls(
            data["model"],
            Fingerprint.from_dict(data["fingerprint"]),
            Profile.from_dict(data["profile"]),
            data["contents"],
        )


def engine_records(bundle: Bundle) -> list[tuple[Artifact, EngineRecord]]:
    """The engines of a bundle, each with its record.

    Raises:
        BundleError: a record is damaged, or names no model of the bundle.
    """
    models = {artifact.path for artifact in bundle.models}
    found = []
    for artifact in bundle.engines:
        where = f"{bundle.path}, {artifact.path}"
        try:
            record = EngineRecord.from_dict(artifact.engine)
        except BundleError as error:
            raise BundleError(f"{where}: {error}") from error
        if record.model not in models:
            raise BundleError(
                f"{where}: it is made of {record.model!r}, which the manifest does not list: export again"
            )
        found.append((artifact, record))
    return found
