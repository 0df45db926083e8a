"""Checks records without a model, without torch and without submitted code, whatever the files hold.

1. Find the record files of each path and the submissions among them (`find_records`, `folder`).
2. Read each record, bounded before it is read (`safe_files`), and check it by itself: every field
   (`basisbench.results.record`), then its `invariants`.
3. Check what takes more than one: a file is named by its cell, a cell occurs once, F(M) and F(0) are
   equal wherever they are the same number (`cross_checks`), a submission holds what it says (`folder`), a verification
   is one.

Submitted records are held against reference records: those of the other paths, of `reference`, and of `pocket/` in the
tree of results that a submission lies in.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from basisbench.errors import RecordError
from basisbench.results.record import Record, parse_record
from basisbench.results.safe_files import RECORD_BYTES, TooLargeError, read_bounded, repeated_key
from basisbench.results.schema import printable
from basisbench.results.store import RECORDS_FOLDER, file_name
from basisbench.submissions.cross_checks import Member, Trust, check_shared, member_of
from basisbench.submissions.find_records import RESTORE, SUBMISSIONS, Notes, find_records
from basisbench.submissions.folder import check_metadata, check_verified, list_submission
from basisbench.submissions.invariants import violations
from basisbench.submissions.submission import sha256
from basisbench.submissions.verification import standing

REFERENCE = "pocket"
"""Folder of a tree of results that holds the reference run, beside `submissions/`."""

_VIOLATIONS_SHOWN = 3
"""Violations of a record that are listed; one change to a number can break many invariants."""

_PROBLEMS_SHOWN = 5
"""Problems of one file that are listed."""


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        valid: number of record files without a problem.
        problems: path to everything that is wrong with it, in the order in which the paths were met.
        links: number of links that were not followed.
        submissions: number of submissions without a problem in any of their files.
    """

    valid: int
    problems: dict[Path, tuple[str, ...]]
    links: int
    submissions: int = 0

    def lines(self) -> Iterator[str]:
        """Yield one printable line per bad path: where, what, what was expected, what to do."""
        for path, problems in self.problems.items():
            more = f"; and {len(problems) - _PROBLEMS_SHOWN} more" if len(problems) > _PROBLEMS_SHOWN else ""
            yield printable(f"{path}: {'; also: '.join(problems[:_PROBLEMS_SHOWN])}{more}")

    def counts(self) -> str:
        """Say in one line how many records are valid and how many are not."""
        text = f"records: {self.valid} valid, {len(self.problems)} not valid"
        text = f"{text}; submissions: {self.submissions} valid" if self.submissions else text
        return f"{text}; links not followed: {self.links}" if self.links else text


@dataclass
class _Search:
    """What is known so far; `shown` and `met` have the path by which each file and submission was met first."""

    notes: Notes = field(default_factory=Notes)
    shown: dict[Path, Path] = field(default_factory=dict)
    members: dict[Path, Member] = field(default_factory=dict)
    submissions: dict[Path, tuple[Path, ...]] = field(default_factory=dict)
    met: dict[Path, Path] = field(default_factory=dict)

    @property
    def submitted(self) -> set[Path]:
        """Record files of submissions."""
        return {file for files in self.submissions.values() for file in files}


def validate(
    paths: Sequence[str | os.PathLike[str]], reference: Sequence[str | os.PathLike[str]] | None = None
) -> Report:
    """Check every record and submission below the given paths.

    Args:
        paths: record files, or folders that are searched for `*.json` at any depth.
        reference: records that submitted ones are held against; nothing is said about these themselves. By default
            those of `pocket/` in the tree of results that a submission lies in.

    Returns:
        What was found. A path that does not exist, cannot be read or holds no record is a problem like any other:
        nothing is raised for what the paths hold.
    """
    search = _Search()
    for path in dict.fromkeys(map(Path, paths)):
        _check_each(path, search)
    _check_repeated(search)
    known = _references(search, reference)
    notes, submitted = search.notes, search.submitted

    def trust(path: Path) -> Trust:
        if Path(os.path.realpath(path)) in known:
            return Trust.REFERENCE
        return Trust.SUBMITTED if path in submitted else Trust.OWN

    others = [member for path, member in known.items() if path not in search.shown]
    check_shared([(member, trust(member.path)) for member in (*others, *search.members.values())], notes)
    problems = {path: tuple(texts) for path, texts in notes.problems.items()}
    bad = {folder for path in problems for folder in (path, *path.parents)}
    good = sum(folder not in bad for folder in search.submissions)
    return Report(len(search.members.keys() - problems.keys()), problems, len(notes.links), good)


def check_record(data: bytes) -> Record:
    """Check the content of a record's file by itself, as strictly as `validate` does.

    Args:
        data: what the file holds.

    Raises:
        RecordError: something is wrong with it; the message begins with the field.
    """
    record = parse_record(data)
    if (key := repeated_key(data)) is not None:
        raise RecordError(f"{_shorten(key)}: is given twice; expected each key once")
    found = list(islice(violations(record), _VIOLATIONS_SHOWN + 1))
    if found:
        more = "; and more" if len(found) > _VIOLATIONS_SHOWN else ""
        raise RecordError("; ".join(found[:_VIOLATIONS_SHOWN]) + more)
    return record


def _shorten(text: str, limit: int = 600) -> str:
    """Keep what a record says about itself, such as the name of an unknown field, to a bearable length."""
    return text if len(text) <= limit else f"{text[:limit]}..."


def _check_each(root: Path, search: _Search) -> None:
    """Read and check the files of one path, each once."""
    submissions: dict[Path, None] = {}
    for found in find_records(
        root, search.notes, submissions.setdefault, lambda folder: check_verified(folder, search.notes)
    ):
        path = _first_shown(found, search)
        if path is found and path not in search.notes.problems:
            _check_file(path, search)
    for folder in submissions:
        _check_submission(folder, search)


def _first_shown(found: Path, search: _Search) -> Path:
    """Return the path by which a file was met first."""
    return search.shown.setdefault(Path(os.path.realpath(found)), found)


def _check_file(path: Path, search: _Search) -> tuple[str | None, Record | None]:
    """Check one record by itself; return its SHA-256, if it could be read, and the record, if it is good."""
    digest = None
    try:
        data = read_bounded(path, RECORD_BYTES)
        digest = sha256(data)
        record = check_record(data)
    except TooLargeError as error:
        search.notes.add(path, f"{error}; run the cell with fewer --examples")
        return digest, None
    except RecordError as error:
        search.notes.add(path, f"{_shorten(str(error))}; {RESTORE}")
        return digest, None
    search.members[path] = member_of(path, record)
    if path.name != file_name(record.id):
        search.notes.add(path, f"expected the name {file_name(record.id)}: rename it, or if it was edited, {RESTORE}")
    return digest, record


def _check_submission(folder: Path, search: _Search) -> tuple[Path, ...]:
    """Check a submission, once; return its record files as they were met first."""
    known = search.met.setdefault(Path(os.path.realpath(folder)), folder)
    if known in search.submissions:
        return search.submissions[known]
    files = list_submission(folder, search.notes)
    digests: dict[Path, str] = {}
    records: list[Record] = []
    for path in files:
        if _first_shown(path, search) is not path:
            continue
        digest, record = _check_file(path, search)
        if digest is not None:
            digests[path] = digest
        if record is not None:
            records.append(record)
    search.submissions[folder] = tuple(_first_shown(path, search) for path in files)
    check_metadata(folder, files, digests, records, search.notes)
    return search.submissions[folder]


def reference_beside(folder: Path) -> list[Path]:
    """Return the folder of reference records in the tree of results that a submission lies in, if there is one."""
    tree = folder.resolve().parent
    root = tree.parent / REFERENCE
    return [root] if tree.name == SUBMISSIONS and root.is_dir() else []


def files_beside(folder: Path) -> set[str]:
    """Return the names of the record files in the tree of results that a submission lies in, or is to lie in.

    Args:
        folder: the submission's folder.
    """
    tree = folder.resolve().parent
    if tree.name != SUBMISSIONS:
        return set()
    folders = [tree.parent / REFERENCE, *(other for other in tree.glob("*") if other != folder.resolve())]
    return {path.name for other in folders for path in (other / RECORDS_FOLDER).glob("*.json")}


def _references(search: _Search, reference: Sequence[str | os.PathLike[str]] | None) -> dict[Path, Member]:
    """Return the reference records by real path; what was checked already is not read again."""
    if reference is None:
        roots = list(dict.fromkeys(root for folder in search.submissions for root in reference_beside(folder)))
    else:
        roots = [Path(root) for root in reference]
    known: dict[Path, Member] = {}
    submitted = search.submitted
    for root in roots:
        aside = _Search(shown=dict(search.shown))
        for found in find_records(root, aside.notes, lambda _: None):
            path = _first_shown(found, aside)
            if path is found:
                _check_file(path, aside)
            member = search.members.get(path) or aside.members.get(path)
            if member is not None and path not in submitted:
                known[Path(os.path.realpath(path))] = member
        if reference is not None and root in aside.notes.problems:
            for problem in aside.notes.problems[root]:
                search.notes.add(root, problem)
    return known


def _check_repeated(search: _Search) -> None:
    """Find cells with more than one record; neither the later nor the earlier is right for its date.

    Kept is what nobody submitted, then what lies in a verified folder, then what is rightly named.
    """
    kept: dict[str, Member] = {}
    submitted = search.submitted
    verified = functools.cache(lambda folder: standing(folder) == "verified")

    def order(member: Member) -> tuple[bool, bool, bool]:
        path = member.path
        return (path in submitted, not verified(path.parent.parent), path.name != file_name(member.id))

    cells = Counter(member.id for member in search.members.values())
    for member in sorted((member for member in search.members.values() if cells[member.id] > 1), key=order):
        first = kept.setdefault(member.id, member)
        if first is not member:
            search.notes.add(
                member.path,
                f"holds a record of the same cell as {first.path}; expected one record of a cell: remove one of them",
            )
