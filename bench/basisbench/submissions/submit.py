"""Makes a submission of the records of a run: whole or not at all.

1. Read the metadata: a file, then what the command line says; a field that is missing is named with its option.
2. Check every record of the run as `validate` does; the first bad one ends it. Leave out cells that the tree of results
   has already, such as those of neurons in the reference run: a cell stands there once. Copy the others byte by byte.
3. Describe each basis and method that a record names: from the metadata, the registry and the records themselves.
4. Run the contract tests on every plug-in that a record names; what fails one is not submitted (`checked`).
5. Write everything into a hidden folder beside the target, validate that as a submission, and rename it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from basisbench.errors import BasisBenchError, RecordError
from basisbench.registry import Registry
from basisbench.results.record import TEMPORARY_SUFFIX, Record
from basisbench.results.safe_files import METADATA_BYTES, RECORD_BYTES, read_bounded
from basisbench.results.schema import describe_problem
from basisbench.results.store import RECORDS_FOLDER, SUBMISSION_FILE, file_name
from basisbench.submissions.checked import Checker, check_plug_ins
from basisbench.submissions.find_records import RESTORE, Notes, find_records
from basisbench.submissions.folder import missing_details
from basisbench.submissions.submission import Submission, sha256
from basisbench.submissions.validate import check_record, files_beside, reference_beside, validate
from basisbench.version import __version__

OPTIONS: Mapping[str, str] = {
    "name": "--name NAME",
    "title": "--title TEXT",
    "authors": "--author NAME",
    "link": "--link URL",
    "code": "--repository URL --revision REVISION",
    "code.repository": "--repository URL",
    "code.revision": "--revision REVISION",
    "licence": "--licence SPDX-ID",
    "bases": "--basis-info FILE",
    "methods": "--metadata FILE",
}
"""Field of the metadata to the option that gives it."""

_FROM_FILE = ("name", "title", "authors", "link", "code", "licence", "bases", "methods")


@dataclass(frozen=True)
class SubmissionRequest:
    """What to submit, and what is said about it.

    Attributes:
        results: record files, folders of records or results folders.
        out: the submission's folder, which must not exist.
        given: fields of the metadata that the command line gives; these win over the file's.
        metadata: YAML or JSON file with fields of `Submission`.
        basis_info: YAML or JSON files, each a mapping from the name of a basis to its details.
        registry: where parameters of bases and methods are looked up.
        checker: runs the contract tests on a plug-in; None where records name none.
    """

    results: Sequence[Path]
    out: Path | None
    given: Mapping[str, Any]
    metadata: Path | None = None
    basis_info: Sequence[Path] = ()
    registry: Registry = field(default_factory=Registry)
    checker: Checker | None = None


@dataclass(frozen=True)
class Submitted:
    """What became of a request.

    Attributes:
        folder: the submission's folder.
        left_out: record files of cells that the tree of results has already.
    """

    folder: Path
    left_out: tuple[str, ...]


def submit(request: SubmissionRequest) -> Submitted:
    """Write a submission.

    Args:
        request: what to submit.

    Raises:
        RecordError: a record or a field of the metadata is missing or wrong, or a plug-in fails its contract tests;
            nothing is written.
        BasisBenchError: the name is taken, or the folder cannot be written.
    """
    fields = _metadata(request)
    for name in ("name", "authors", "licence"):
        if not fields.get(name):
            raise RecordError(f"{name}: missing; give {OPTIONS[name]}, or {name} in a --metadata file")
    out = Path("results", "submissions", str(fields["name"])) if request.out is None else request.out
    if out.resolve().name != fields["name"]:
        raise BasisBenchError(f"--out {out}: expected a folder with the submission's name, '{fields['name']}'")
    if os.path.lexists(out):
        raise BasisBenchError(
            f"{out}: the name '{fields['name']}' is taken; choose another --name, or remove that folder"
        )
    records = _records(request.results)
    left_out = tuple(sorted(records.keys() & files_beside(out)))
    if len(left_out) == len(records):
        raise RecordError(
            f"{', '.join(map(str, request.results))}: every cell is in {out.resolve().parent.parent} already; nothing "
            "to submit"
        )
    records = {name: found for name, found in records.items() if name not in left_out}
    submission = _submission(fields, records, request.registry)
    listed = [record for record, _ in records.values()]
    for problem in missing_details(submission, listed):
        raise RecordError(f"{problem} (--basis-info FILE, --metadata FILE)")
    submission = submission.model_copy(update={"checks": check_plug_ins(listed, request.checker)})
    _write(out, submission, {name: data for name, (_, data) in records.items()})
    return Submitted(out, left_out)


def steps(submitted: Submitted, submission: Submission) -> str:
    """Say what to do with a submission, step by step."""
    branch = f"submit-{submission.name}"
    left_out = f"; left out, for they are there already: {len(submitted.left_out)}" if submitted.left_out else ""
    checked = "".join(
        f"{report.kind} {report.name}: passes basisbench check on {report.model}.\n" for report in submission.checks
    )
    return (
        f"{submitted.folder}: {len(submission.records)} records, valid{left_out}.\n{checked}\n"
        "To send it as a pull request, in a clone of your fork of BasisBench:\n"
        f"  1. git switch -c {branch}\n"
        f"  2. copy the folder to results/submissions/{submission.name}, if it is not there\n"
        "  3. basisbench validate results\n"
        f"  4. git add results/submissions/{submission.name} && git commit -m 'Submission {submission.name}'\n"
        f"  5. git push -u origin {branch}, and open a pull request\n\n"
        "It is listed as self-reported; whoever runs `basisbench verify` on it can add a verification."
    )


def _metadata(request: SubmissionRequest) -> dict[str, Any]:
    """Return the fields of the metadata file, those of the command line on top."""
    fields: dict[str, Any] = {}
    if request.metadata is not None:
        fields = _read_mapping(request.metadata)
        if unknown := sorted(map(str, fields.keys() - set(_FROM_FILE))):
            raise RecordError(f"{request.metadata}: {unknown[0]}: no such field; expected {', '.join(_FROM_FILE)}")
    given = {name: value for name, value in request.given.items() if value}
    if "code" in given:
        before = fields.get("code")
        given["code"] = {**(before if isinstance(before, dict) else {}), **given["code"]}
    fields |= given
    for path in request.basis_info:
        bases = fields.get("bases")
        fields["bases"] = {**(bases if isinstance(bases, dict) else {}), **_read_mapping(path)}
    return fields


def _read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file (every JSON text is YAML) that holds a mapping."""
    try:
        content = yaml.safe_load(read_bounded(path, METADATA_BYTES).decode())
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise RecordError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise RecordError(f"{path}: expected a mapping of names to values, found {type(content).__name__}")
    return content


def _records(results: Sequence[Path]) -> dict[str, tuple[Record, bytes]]:
    """Return the records of all results by file name, each with the bytes of its file; all are good."""
    notes = Notes()
    found: dict[str, tuple[Record, bytes]] = {}
    for root in results:
        for path in find_records(root, notes, lambda _: None):
            try:
                data = read_bounded(path, RECORD_BYTES)
                record = check_record(data)
            except RecordError as error:
                raise RecordError(f"{path}: {error}; {RESTORE}") from error
            if path.name != file_name(record.id):
                raise RecordError(f"{path}: expected the name {file_name(record.id)}; {RESTORE}")
            if path.name in found and found[path.name][1] != data:
                raise RecordError(f"{path}: another record of this cell is there too; remove one of them")
            found[path.name] = (record, data)
    for path, problems in notes.problems.items():
        raise RecordError(f"{path}: {problems[0]}")
    if not found:
        raise RecordError(f"{', '.join(map(str, results))}: no records of your own; expected a results folder")
    return dict(sorted(found.items()))


def _submission(
    fields: Mapping[str, Any], records: Mapping[str, tuple[Record, bytes]], registry: Registry
) -> Submission:
    listed = [record for record, _ in records.values()]
    code = fields.get("code")
    if code is None:
        code = {"revision": f"basisbench {', '.join(sorted({record.basisbench for record in listed}))}"}
    details: dict[str, dict[str, Any]] = {}
    for kind, known in (("bases", _of_basis), ("methods", _of_method)):
        given = fields.get(kind) or {}
        if not isinstance(given, dict):
            raise RecordError(f"{kind}: expected a mapping of names to details, found {type(given).__name__}")
        details[kind] = {name: item for name, item in known(listed, registry).items() if name not in given} | given
    content = {
        **fields,
        **details,
        "schema_version": 1,
        "basisbench": __version__,
        "title": fields.get("title") or fields["name"],
        "code": code,
        "records": {name: sha256(data) for name, (_, data) in records.items()},
        "created": datetime.now(UTC).replace(microsecond=0).isoformat(),
    }
    try:
        # Through JSON, so that the file means the same when it is read again.
        return Submission.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        place = describe_problem(error)
        names = (name for name in sorted(OPTIONS, key=len, reverse=True) if place.startswith(name))
        raise RecordError(f"{place}; correct {OPTIONS.get(next(names, ''), '--metadata FILE')}") from error
    except (TypeError, ValueError) as error:
        raise RecordError(f"metadata: {error}; expected texts, numbers, lists and mappings only") from error


def _of_basis(records: Sequence[Record], registry: Registry) -> dict[str, dict[str, Any]]:
    """Return what registry and records tell about each basis."""
    entries = {entry.name: entry.item for entry in registry.of("basis")}
    found: dict[str, dict[str, Any]] = {}
    for record in sorted(records, key=lambda record: record.cell.basis):
        name = record.cell.basis
        if name in found:
            continue
        parameters: dict[str, Any] = {"family": record.cell.family}
        widths = record.counts.units_per_layer
        parameters["units_per_layer"] = ", ".join(map(str, widths)) if len(set(widths)) > 1 else widths[0]
        parameters["layers"] = record.counts.layers
        if record.identities.dictionary is not None:
            parameters["dictionary_bytes"] = record.cost.dictionary_bytes
            parameters["dictionary"] = record.identities.dictionary
        for repository, commit in record.sources.items():
            parameters[repository] = commit
        # A new basis is described by those who made it: what a record says anyway is no description.
        found[name] = {"parameters": parameters | _scalars(entries[name])} if name in entries else {}
    return found


def _of_method(records: Sequence[Record], registry: Registry) -> dict[str, dict[str, Any]]:
    """Return what the registry tells about each method."""
    entries = {entry.name: entry.item for entry in registry.of("method")}
    names = sorted({record.cell.method for record in records})
    return {name: {"parameters": _scalars(entries[name])} if name in entries else {} for name in names}


def _scalars(item: object) -> dict[str, Any]:
    """Return the plain values of a dataclass, such as a method's rule and number of steps."""
    if not dataclasses.is_dataclass(item):
        return {}
    values = {entry.name: getattr(item, entry.name) for entry in dataclasses.fields(item)}
    return {name: value for name, value in values.items() if isinstance(value, str | int | float) and name != "name"}


def _write(out: Path, submission: Submission, files: Mapping[str, bytes]) -> None:
    """Write the folder, whole or not at all."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=TEMPORARY_SUFFIX, dir=out.parent))
        try:
            made = aside / out.name
            (made / RECORDS_FOLDER).mkdir(parents=True)
            for name, data in files.items():
                (made / RECORDS_FOLDER / name).write_bytes(data)
            text = submission.model_dump_json(indent=2)
            (made / SUBMISSION_FILE).write_text(f"{text}\n", encoding="utf-8")
            report = validate([made], reference_beside(out))
            for line in report.lines():
                raise RecordError(line.replace(str(made), str(out)))
            if os.path.lexists(out):
                raise BasisBenchError(f"{out}: somebody else has taken this name meanwhile; choose another --name")
            made.rename(out)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise RecordError(f"{out}: cannot be written: {error.strerror or error}") from error
