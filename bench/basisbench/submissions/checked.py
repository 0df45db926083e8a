"""Plug-ins of a submission and the reports of their contract tests: what was not checked, or failed, is not submitted.

1. A plug-in is a task, basis or method that does not come with BasisBench; one of a built-in scheme, such as a
   dictionary in somebody's folder, runs BasisBench's own code.
2. `basisbench submit` runs `basisbench check` on each and keeps the report (`submission.Checked`); this package loads
   no plug-in, so whoever submits is given the checker.
3. The report is of the code that made the records: both have its digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from basisbench.errors import RecordError
from basisbench.registry import built_in
from basisbench.results.record import PlugIn, Record
from basisbench.submissions.submission import Checked, Submission

Checker: TypeAlias = "Callable[[PlugIn, str, str], Checked]"
"""Runs the contract tests on what has that kind and name, on the model of that name."""

_KINDS: tuple[PlugIn, ...] = ("task", "basis", "method")


def plug_ins(records: Iterable[Record]) -> dict[tuple[PlugIn, str], list[Record]]:
    """Return the plug-ins that records name, by kind and name, each with its records."""
    registry = built_in()
    known = {(kind, entry.name) for kind in _KINDS for entry in registry.of(kind)}
    found: dict[tuple[PlugIn, str], list[Record]] = {}
    for record in records:
        for kind in _KINDS:
            name = str(getattr(record.cell, kind))
            if (kind, name) not in known and registry.scheme_of(kind, name) is None:
                found.setdefault((kind, name), []).append(record)
    return found


def check_plug_ins(records: Iterable[Record], checker: Checker | None) -> tuple[Checked, ...]:
    """Check every plug-in that records name, on the model of its first record.

    Args:
        records: what is submitted.
        checker: runs the contract tests.

    Raises:
        RecordError: there is no checker, a plug-in fails, or it is not the code that made the records.
    """
    reports = []
    for (kind, name), own in sorted(plug_ins(records).items(), key=lambda item: item[0]):
        if checker is None:
            raise RecordError(f"{kind} '{name}': does not come with BasisBench, and there is nothing to check it with")
        report = checker(kind, name, own[0].cell.model)
        for problem in _problems(report, own):
            raise RecordError(f"{problem}; nothing is submitted")
        reports.append(report)
    return tuple(reports)


def missing_checks(submission: Submission, records: Iterable[Record]) -> Iterator[str]:
    """Yield what the reports of a submission lack, or tell against it.

    Args:
        submission: the metadata.
        records: the records.
    """
    reports = {(report.kind, report.name): report for report in submission.checks}
    for (kind, name), own in sorted(plug_ins(records).items(), key=lambda item: item[0]):
        if (kind, name) in reports:
            yield from _problems(reports[kind, name], own)
        else:
            yield f"checks: lacks the report of {kind} '{name}', which does not come with BasisBench: submit again"


def _problems(report: Checked, records: Iterable[Record]) -> Iterator[str]:
    failed = [line for line in report.properties if line.startswith("FAILED")]
    what = f"{report.kind} '{report.name}'"
    if failed:
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        yield f"{what} fails basisbench check: {' '.join(failed[0].split()[1:])}{more}"
    codes = {(record.identities.code or {}).get(report.kind) for record in records} - {None, report.code}
    for code in sorted(map(str, codes)):
        yield (
            f"{what}: its records were made by code {code}, but {report.code or 'code without source'} was checked: "
            "run these cells again"
        )
