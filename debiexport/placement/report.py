"""What one function of a package asks of an M1's Neural Engine, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from debiexport.errors import BundleError
from debiexport.evaluate.package import open_package
from debiexport.evaluate.program import Function, Operation, Program, TensorType
from debiexport.placement.multiply_adds import multiply_adds
from debiexport.placement.rules import Rule, is_integer, is_wide_float, never_on_ane

SHOWN = 5  # names of operations in a finding
BASIS = (
    "predicted from the saved package and third-party evidence, not measured; an operation that may run on the Neural"
    " Engine need not be placed there"
)


@dataclass(frozen=True)
class Finding:
    """Operations of one type that never run on the Neural Engine, for one reason.

    Attributes:
        reason: in a few words, see `rules`.
        type: of the operations.
        count: how many there are.
        evidence: in a sentence.
        names: of the first `SHOWN`, in the order in which they run.
    """

    reason: str
    type: str
    count: int
    evidence: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.names) else ""
        return f"{self.count} {self.type} ({self.reason}): {', '.join(self.names)}{more}; {self.evidence}"


@dataclass(frozen=True)
class LargestTensor:
    """The result with the most elements, the first of equals.

    Attributes:
        elements: how many.
        operation: type of what makes it.
        name: of the tensor.
    """

    elements: int
    operation: str
    name: str

    def __str__(self) -> str:
        return f"{self.elements} elements ({self.name}, by {self.operation})"


@dataclass(frozen=True)
class PlacementReport:
    """The figures of one function. Constants, compressed or not, count in none of them but the sizes of files.

    Attributes:
        function: its name.
        operations: how many of each type, the most frequent first.
        never_on_ane: operations known never to run on an M1's Neural Engine, the most frequent first. An operation
            is in one finding only.
        integer_tensors, bool_tensors: results of integers, and of truth values.
        float32_tensors: inputs of the function and results in float32 or wider, those of casts at either end too.
        over_rank_4, over_rank_5: results of more dimensions; the latter are among the former.
        written_bytes: of all results, as declared, a truth value as one byte. Those of reshape, expand_dims and
            squeeze count: whether they are copies is for Core ML's compiler to decide.
        largest: None if no operation gives a tensor.
        multiply_adds: see `multiply_adds`.
        weight_bytes: size of the package's file of weights, which all functions share; small constants lie in the
            model's own file.
        package_bytes: size of all files of the package.
    """

    function: str
    operations: dict[str, int]
    never_on_ane: tuple[Finding, ...]
    integer_tensors: int
    bool_tensors: int
    float32_tensors: int
    over_rank_4: int
    over_rank_5: int
    written_bytes: int
    largest: LargestTensor | None
    multiply_adds: int
    weight_bytes: int
    package_bytes: int

    @property
    def never_count(self) -> int:
        """Operations known never to run on an M1's Neural Engine."""
        return sum(finding.count for finding in self.never_on_ane)

    @property
    def transposes(self) -> int:
        """Operations that reorder the dimensions of a tensor."""
        return self.operations.get("transpose", 0)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PlacementReport:
        """The report that `to_dict` wrote.

        Raises:
            BundleError: a figure is missing, or none.
        """
        try:
            largest = data["largest"]
            return cls(
                function=_typed(data["function"], str),
                operations={_typed(key, str): _count(n) for key, n in _typed(data["operations"], dict).items()},
                never_on_ane=tuple(_finding(_typed(one, dict)) for one in _typed(data["never_on_ane"], list)),
                largest=None if largest is None else _largest(_typed(largest, dict)),
                **{name: _count(data[name]) for name in _FIGURES},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"the placement report is damaged ({type(error).__name__}: {str(error)[:200]}): export again"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        return {
            "basis": BASIS,
            "function": self.function,
            "operations": dict(self.operations),
            "never_on_ane": [{**asdict(finding), "names": list(finding.names)} for finding in self.never_on_ane],
            "never_on_ane_count": self.never_count,
            "transposes": self.transposes,
            "largest": None if self.largest is None else asdict(self.largest),
            **{name: getattr(self, name) for name in _FIGURES},
        }

    def lines(self) -> list[str]:
        """The report for people."""
        total = sum(self.operations.values())
        return [
            f"function {self.function!r}: {BASIS}",
            f"{total} operations: {', '.join(f'{n} {kind}' for kind, n in self.operations.items()) or 'none'}",
            f"{self.never_count} of them known never to run on an M1's Neural Engine",
            *(f"  {finding}" for finding in self.never_on_ane),
            f"tensors: {self.integer_tensors} of integers, {self.bool_tensors} of truth values, {self.float32_tensors}"
            f" in float32, {self.over_rank_4} of rank > 4, {self.over_rank_5} of rank > 5",
            f"{self.transposes} transposes; {self.written_bytes / 1e6:.1f} MB of activations written; largest tensor:"
            f" {self.largest or 'none'}",
            f"{self.multiply_adds / 1e9:.3f} G multiply-adds; weights {self.weight_bytes / 1e6:.1f} MB, package"
            f" {self.package_bytes / 1e6:.1f} MB",
        ]

    def __str__(self) -> str:
        return (
            f"{self.never_count} of {sum(self.operations.values())} operations known never to run on an M1's Neural"
            f" Engine, {self.integer_tensors} integer tensors, {self.transposes} transposes,"
            f" {self.written_bytes / 1e6:.1f} MB written, {self.multiply_adds / 1e9:.3f} G multiply-adds (predicted)"
        )


# Those that are whole numbers, in the order of a manifest.
_FIGURES = (
    "integer_tensors",
    "bool_tensors",
    "float32_tensors",
    "over_rank_4",
    "over_rank_5",
    "written_bytes",
    "multiply_adds",
    "weight_bytes",
    "package_bytes",
)


def placement_of(program: Program, package_path: Path, function: str | None = None) -> PlacementReport:
    """The figures of one function.

    Args:
        program: read from the package.
        package_path: the .mlpackage, for the sizes of its files.
        function: its name; the default one if None.

    Raises:
        UsageError: the program has no such function.
        BundleError: the package is incomplete, an operation does not fit its shapes, or the function has loops or
            branches, whose nested programs are not counted.
    """
    chosen = program.function(function)
    package = open_package(package_path)
    operations = [operation for operation in chosen.operations if not operation.is_constant]
    for operation in operations:
        if operation.blocks:
            raise BundleError(
                f"{operation.name!r} ({operation.type}) has nested programs, which cannot be counted: export without"
                " loops and branches"
            )
    results = [(operation, value.name, kind) for operation in operations for value, kind in _tensors(operation)]
    types = [kind for _, _, kind in results]
    inputs = [value.type for value in chosen.inputs if isinstance(value.type, TensorType)]
    largest = max(results, key=lambda result: result[2].size, default=None)
    return PlacementReport(
        function=chosen.name,
        operations=_ordered(Counter(operation.type for operation in operations)),
        never_on_ane=_findings(chosen, operations),
        integer_tensors=sum(is_integer(kind.dtype) for kind in types),
        bool_tensors=sum(kind.dtype == "bool" for kind in types),
        float32_tensors=sum(is_wide_float(kind.dtype) for kind in (*inputs, *types)),
        over_rank_4=sum(len(kind.shape) > 4 for kind in types),
        over_rank_5=sum(len(kind.shape) > 5 for kind in types),
        written_bytes=sum(kind.bytes for kind in types),
        largest=None if largest is None else LargestTensor(largest[2].size, largest[0].type, largest[1]),
        multiply_adds=sum(multiply_adds(chosen, operation) for operation in operations),
        weight_bytes=_size(package.weights),
        package_bytes=sum(_size(path) for path in package.path.rglob("*")),
    )


def _findings(function: Function, operations: list[Operation]) -> tuple[Finding, ...]:
    found: dict[tuple[Rule, str], list[str]] = {}
    for operation in operations:
        varying = (a for arguments in operation.inputs.values() for a in arguments if not function.is_constant(a))
        taken = (function.type_of(argument) for argument in varying)
        takes = [kind.dtype for kind in taken if isinstance(kind, TensorType)]
        rule = never_on_ane(operation.type, takes, [kind.dtype for _, kind in _tensors(operation)])
        if rule is not None:
            found.setdefault((rule, operation.type), []).append(operation.name)
    findings = [
        Finding(rule.reason, kind, len(names), rule.evidence, tuple(names[:SHOWN]))
        for (rule, kind), names in found.items()
    ]
    return tuple(sorted(findings, key=lambda finding: (-finding.count, finding.type, finding.reason)))


def _tensors(operation: Operation) -> Iterator[tuple[Any, TensorType]]:
    """Every result that is a tensor, with its type; those of a classifier may be lists and dictionaries."""
    for value in operation.outputs:
        if isinstance(value.type, TensorType):
            yield value, value.type


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _size(path: Path) -> int:
    """Bytes of a file; 0 if it is none."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): check its permissions") from error


def _finding(data: Mapping[str, Any]) -> Finding:
    texts = {key: _typed(data[key], str) for key in ("reason", "type", "evidence")}
    names = tuple(_typed(name, str) for name in _typed(data["names"], list))
    return Finding(**texts, count=_count(data["count"]), names=names)


def _largest(data: Mapping[str, Any]) -> LargestTensor:
    return LargestTensor(_count(data["elements"]), _typed(data["operation"], str), _typed(data["name"], str))


def _count(value: Any) -> int:
    if _typed(value, int) < 0:
        raise ValueError(f"{value} where a count is expected")
    return int(value)


def _typed(value: Any, kind: type) -> Any:
    """The value, if it is of that type; JSON's true and false are no numbers."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r:.80} where {kind.__name__} is expected")
    return value
