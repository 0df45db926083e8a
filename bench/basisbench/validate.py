"""Checks records without a model and without torch: each by itself, then against the others.

1. Find the record files of each path: the file itself, or every `*.json` below a folder, `hardware` folders left out.
2. Read and check each by itself (`basisbench.record.read_record`).
3. Check what takes more than one: a file is named by its cell, a cell occurs once under one path, and F(M) and F(0)
   are equal wherever they are the same number, whatever the basis and the method.

Nothing outside a given folder is read: links to folders, and links to files elsewhere, are counted and not followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from basisbench.errors import RecordError
from basisbench.record import Record, read_record
from basisbench.store import file_name

TOLERANCE = {"float32": 1e-3, "float64": 1e-3}
"""How far two values of one F(M) or F(0) may lie apart, by dtype of the model's weights: in logits where they are below
1, else relative. One machine gives the same digits; another processor, thread count or device rounds otherwise."""

NARROW_TOLERANCE = 5e-2
"""The same for weights of any other dtype, such as bfloat16."""

FIGURES = "hardware"
"""A folder of this name below a given one holds performance figures, not records."""

RESTORE = "restore the file or run the cell again"

Key: TypeAlias = "tuple[str | int | None, ...]"


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        valid: number of record files without a problem.
        problems: path to everything that is wrong with it, in the order in which the paths were met.
        links: number of links that were not followed.
    """

    valid: int
    problems: dict[Path, tuple[str, ...]]
    links: int

    def lines(self) -> Iterator[str]:
        """Yield one printable line per bad path: where, what, what was expected, what to do."""
        for path, problems in self.problems.items():
            yield "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in _line(path, problems))

    def counts(self) -> str:
        """Say in one line how many records are valid and how many are not."""
        text = f"records: {self.valid} valid, {len(self.problems)} not valid"
        return f"{text}; links not followed: {self.links}" if self.links else text


@dataclass(frozen=True, eq=False)
class _Shared:
    """A value that other records must share.

    Attributes:
        key: records of one key must agree.
        place: field of the record.
        meaning: what it is, and of what there is one.
        values: per example, in logits.
    """

    key: Key
    place: str
    meaning: str
    values: Float[np.ndarray, " example"]


@dataclass(frozen=True, eq=False)
class _Member:
    """What the checks against other records need of a record that is good by itself."""

    path: Path
    id: str
    tolerance: float
    shared: tuple[_Shared, ...]


@dataclass
class _Search:
    """What is known so far; `shown` has the path by which each file, told by its real path, was met first."""

    shown: dict[Path, Path] = field(default_factory=dict)
    members: dict[Path, _Member] = field(default_factory=dict)
    problems: dict[Path, list[str]] = field(default_factory=dict)
    links: set[Path] = field(default_factory=set)

    def add(self, path: Path, problem: str) -> None:
        """Note what is wrong with a path."""
        self.problems.setdefault(path, []).append(problem)


def validate(paths: Sequence[str | os.PathLike[str]]) -> Report:
    """Check every record below the given paths.

    Args:
        paths: record files, or folders that are searched for `*.json` at any depth.

    Returns:
        What was found. A path that does not exist, cannot be read or holds no record is a problem like any other:
        nothing is raised for what the paths hold.
    """
    search = _Search()
    for path in dict.fromkeys(map(Path, paths)):
        _check_repeated(path, _check_each(path, search), search)
    _check_shared(tuple(search.members.values()), search)
    problems = {path: tuple(texts) for path, texts in search.problems.items()}
    return Report(len(search.members.keys() - problems.keys()), problems, len(search.links))


def _line(path: Path, problems: Sequence[str]) -> str:
    return f"{path}: {'; also: '.join(problems)}"


def _shorten(text: str, limit: int = 300) -> str:
    """Keep what a record says about itself, such as the name of an unknown field, to a bearable length."""
    return text if len(text) <= limit else f"{text[:limit]}..."


def _check_each(root: Path, search: _Search) -> tuple[_Member, ...]:
    """Read and check the files of one path, each once; return those that are good by themselves."""
    paths: dict[Path, None] = {}
    for found in _files(root, search):
        real = Path(os.path.realpath(found))
        path = search.shown.setdefault(real, found)
        paths[path] = None
        if path is not found or path in search.problems:
            continue
        try:
            record = read_record(path)
        except RecordError as error:
            search.add(path, f"{_shorten(str(error).removeprefix(f'{path}: '))}; {RESTORE}")
            continue
        search.members[path] = _member(path, record)
        if path.name != file_name(record.id):
            search.add(path, f"expected the name {file_name(record.id)}: rename it, or if it was edited, {RESTORE}")
    return tuple(search.members[path] for path in paths if path in search.members)


def _files(root: Path, search: _Search) -> Iterator[Path]:
    """Yield the record files of one path, by name; note what cannot be read."""
    try:
        mode = root.stat().st_mode
    except OSError as error:
        search.add(root, f"cannot be read: {error.strerror}; expected a record or a folder of records, check the path")
        return
    if not stat.S_ISDIR(mode):
        if _is_file(root, mode, search):
            yield root
        return

    def unreadable(error: OSError) -> None:
        search.add(Path(error.filename), f"cannot be read: {error.strerror}; allow reading, or give another path")

    inside = Path(os.path.realpath(root))
    count = 0
    for folder, folders, names in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if name != FIGURES)
        search.links.update(path for name in folders if (path := Path(folder, name)).is_symlink())
        for name in sorted(names):
            path = Path(folder, name)
            if not name.endswith(".json"):
                continue
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
                search.links.add(path)
                continue
            count += 1
            try:
                mode = path.stat().st_mode
            except OSError as error:
                search.add(path, f"cannot be read: {error.strerror}; {RESTORE}")
                continue
            if _is_file(path, mode, search):
                yield path
    if count == 0:
        search.add(root, "holds no records; expected *.json files there or in folders below, check the path")


def _is_file(path: Path, mode: int, search: _Search) -> bool:
    """Tell whether this is an ordinary file: reading a pipe or a device might never end."""
    if not stat.S_ISREG(mode):
        search.add(path, "expected a file, found a pipe, a socket or a device; remove it")
    return stat.S_ISREG(mode)


def _member(path: Path, record: Record) -> _Member:
    """Take from a record what others must share with it.

    F(M) depends on nothing but model and data. Neither does F(0) under mean and counterfactual ablation, within a
    family; under zero ablation, what is at zero depends on the basis. Versions of BasisBench and dtypes may differ.
    """
    cell, identities, dtype = record.cell, record.identities, record.environment.dtype
    data: Key = (identities.model, identities.data, record.basisbench, dtype)
    scope: Key = (cell.family, cell.ablation)
    owner = f"family {cell.family} under {cell.ablation} ablation"
    if cell.ablation == "zero":
        scope = (*scope, cell.basis, identities.dictionary, cell.seed)
        owner = f"basis {cell.basis} under zero ablation"
    full, empty = np.array(record.endpoints.full), np.array(record.endpoints.empty)
    shared = (
        _Shared(("full", *data), "endpoints.full", "F(M) is one for a model and its pairs", full),
        _Shared(("empty", *data, *scope), "endpoints.empty", f"F(0) is one for a model, its pairs and {owner}", empty),
    )
    return _Member(path, record.id, TOLERANCE.get(dtype, NARROW_TOLERANCE), shared)


def _check_repeated(root: Path, members: Sequence[_Member], search: _Search) -> None:
    """Find cells with more than one record under one path; the one that has the right name is kept."""
    kept: dict[str, _Member] = {}
    for member in sorted(members, key=lambda member: member.path.name != file_name(member.id)):
        first = kept.setdefault(member.id, member)
        if first is not member:
            search.add(
                member.path,
                f"holds the same cell as {first.path}; expected one record per cell under {root}: remove one of them",
            )


def _check_shared(members: Sequence[_Member], search: _Search) -> None:
    """Find records whose F(M) or F(0) differs from what most others of the same model and data have."""
    groups: dict[Key, list[tuple[_Member, _Shared]]] = {}
    for member in members:
        for shared in member.shared:
            groups.setdefault(shared.key, []).append((member, shared))
    for group in groups.values():
        camps: list[list[tuple[_Member, _Shared]]] = []
        for item in group:
            for camp in camps:
                if _apart(camp[0][1], item[1], item[0].tolerance) is None:
                    camp.append(item)
                    break
            else:
                camps.append([item])
        most = max(camps, key=len)  # the first of them, where two are as many
        for camp in camps:
            if camp is not most:
                for member, shared in camp:
                    search.add(member.path, _difference(most, shared, member.tolerance))


def _apart(expected: _Shared, found: _Shared, tolerance: float) -> int | None:
    """Return the first example at which two values differ; None where they are the same number."""
    if len(expected.values) != len(found.values):
        return min(len(expected.values), len(found.values))
    limit = tolerance * np.maximum(1.0, np.abs(expected.values))
    differs = np.abs(found.values - expected.values) > limit
    return int(differs.argmax()) if differs.any() else None


def _difference(most: Sequence[tuple[_Member, _Shared]], found: _Shared, tolerance: float) -> str:
    """Say where a record leaves the others."""
    member, expected = most[0]
    index = _apart(expected, found, tolerance)
    others = f" and {len(most) - 1} more" if len(most) > 1 else ""
    if len(expected.values) != len(found.values):
        numbers = f"{len(found.values)} values, expected {len(expected.values)}"
        place = found.place
    else:
        place = f"{found.place}[{index}]"
        numbers = f"found {found.values[index]:g}, expected {expected.values[index]:g}"
    return f"{place}: {numbers} as in {member.path}{others}: {found.meaning}; run the cell again"
