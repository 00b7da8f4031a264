"""A parity report for people."""

from __future__ import annotations

from debiexport.parity import ParityReport


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
    lines.append(f"  noise floor {report.noise_floor:.1e}, tolerance {report.tolerance:.1e} ({report.method})")
    lines.append(str(report))
    return lines
