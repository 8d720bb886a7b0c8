"""A Report as a table for people and as a tree for programs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from data_pipeline.lint.dataset import Report
from data_pipeline.lint.finding import STATUS, Finding, worst

_EXAMPLES = 3  # places shown of findings of one kind


def tree(report: Report) -> dict[str, Any]:
    """JSON-able: everything that was found, and the exit status."""
    return {**dataclasses.asdict(report), "status": worst(report.findings)}


def table(report: Report) -> list[str]:
    """Lines: findings of one kind together, the worst first, and a sum."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in sorted(report.findings, key=lambda finding: -STATUS[finding.severity]):
        kinds.setdefault((finding.severity, finding.check), []).append(finding)
    rows = [("severity", "check", "number", "where and what")] if kinds else []
    for (severity, check), findings in kinds.items():
        first, *more = _told(findings)
        rows += [(severity, check, str(len(findings)), first), *(("", "", "", line) for line in more)]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]) for row in rows]
    return [*lines, _sum(report)]


def _told(findings: Sequence[Finding]) -> list[str]:
    lines = [f"{finding.where}: {finding.message}" for finding in findings[:_EXAMPLES]]
    rest = len(findings) - _EXAMPLES
    return [*lines, f"and {rest} more; --json shows all"] if rest > 0 else lines


def _sum(report: Report) -> str:
    counts = {kind: sum(finding.severity == kind for finding in report.findings) for kind in STATUS}
    found = ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in counts.items() if n) or "nothing is wrong"
    return f"{report.num_clips} clips, {report.num_frames} frames in {', '.join(report.folders)}: {found}"
