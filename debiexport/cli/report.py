"""A parity report, and where parity was lost, for people."""

from __future__ import annotations

from debiexport.bisecting import BisectResult
from debiexport.checking import CheckResult
from debiexport.parity_report import ParityReport


def parity_lines(report: ParityReport) -> list[str]:
    """The figures of the outputs, one line on the routes, and the verdict."""
    choosing = [block for block in report.blocks if block.chooses]
    lines = [f"  {output}" for output in report.outputs]
    if choosing:
        rows = sum(block.rows for block in choosing)
        near = sum(block.near_ties for block in choosing)
        agreeing = sum(round(block.agreement * block.rows) for block in choosing)
        all_regions = len(report.blocks) - len(choosing)
        lines.append(
            f"  routes: {agreeing} of {rows} agree in {len(choosing)} attentions, {near} near-ties"
            + (f"; {all_regions} more attend to all regions" if all_regions else "")
        )
    if report.min_psnr_db is None:
        lines.append(f"  noise floor {report.noise_floor:.1e}, tolerance {report.tolerance:.1e} ({report.method})")
    else:
        lines.append(f"  {report.precision}: at least {report.min_psnr_db:g} dB with the same routes ({report.method})")
    if report.flips_psnr_db is not None:
        lines.append(
            f"  what its near-ties change in the reference itself: PSNR {report.flips_psnr_db:.1f} dB, not judged"
        )
    lines.append(str(report))
    return lines


def check_lines(result: CheckResult) -> list[str]:
    """The parity, and what is beside it: of a Core ML bundle its placement and a line for each choice of units, of a
    TensorRT bundle a line for each engine."""
    lines = parity_lines(result.parity)
    if result.placement is not None:
        lines += result.placement.lines()
    lines += [f"Core ML on {unit}" for unit in result.units]
    lines += [str(engine) for engine in result.engines]
    if result.accuracy is not None:
        lines.append(f"accuracy: {result.accuracy}")
    return lines


def lost_lines(report: ParityReport) -> list[str]:
    """The figures of the outputs and routes, every failure, and the verdict."""
    *lines, verdict = parity_lines(report)
    if report.ok:  # what was built of the model is at fault, and the error says it
        return [*lines, f"of the model itself {verdict}"]
    return [*lines, f"failures ({len(report.failures)}):", *(f"  {failure}" for failure in report.failures), verdict]


def bisect_lines(result: BisectResult) -> list[str]:
    """The figures of the outputs, the first place and operation that are off with what differs, and the verdict."""
    *lines, verdict = parity_lines(result.parity)
    if result.first is None:
        lines.append(f"none of {len(result.places)} places leaves its tolerance; the worst: {result.worst}")
        return [*lines, verdict]
    off = sum(not place.ok for place in result.places)
    lines.append(f"first place beyond its tolerance ({off} of {len(result.places)} are):")
    lines.append(f"  {result.first}")
    operation = result.operation
    if result.places_only:
        return [*lines, "operations of a Core ML package are not compared, its places only", verdict]
    if operation is None:
        return [*lines, "no operation was found that is beyond its tolerance by itself", verdict]
    lines.append("first operation beyond its tolerance, given the same input and routes:")
    lines.append(f"  {operation}")
    lines += [f"  {text}" for text in operation.differences]
    return [*lines, verdict]
