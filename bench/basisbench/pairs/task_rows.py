"""Rows of prompt pairs as their authors publish them: JSON, JSON lines, CSV, or a dataset of the Hugging Face hub.

A row is an object of fields by name, with a text that says where it stands (`task file PATH, line 3`). What the fields
mean is `basisbench.pairs.task_file`'s work; what cannot be read is refused here, in one line.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from basisbench.errors import BasisBenchError, RecordError, TaskError, first_line
from basisbench.models.hub_errors import one_line
from basisbench.results.safe_files import read_bounded

HUB = "hub:"
"""What the source of a dataset of the hub begins with."""

SLOTS: Mapping[str, tuple[str, ...]] = {
    "clean": ("clean_prefix", "clean"),
    "counterfactual": ("patch_prefix", "corrupted", "counterfactual"),
    "answer": ("clean_answer", "answer", "answers"),
    "foil": ("patch_answer", "foil", "foils"),
}
"""What a pair is made of, each with the names that the field goes by; the first is that of Marks et al."""

ANSWER_IDS: Sequence[tuple[str, str]] = (
    ("correct_idx", "incorrect_idx"),
    ("answers_idx", "corrupted_answers_idx"),
    ("clean_answer_idx", "corrupted_answer_idx"),
    ("country_idx", "corrupted_country_idx"),
)
"""Fields of token ids in place of answers and foils, as in the data of Hanna et al. (EAP-IG)."""

LARGEST = 2**30
"""Bytes of a task file."""

_SPACE = re.compile(r"\s*")
_COLUMN = re.compile(r"( ?)([^\[\] ]+)(?:\[([^\[\] ]+)\])?")

Row = tuple[str, object]
"""Where it stands, and what stands there."""


def task_source(source: str | os.PathLike[str]) -> Path:
    """Make the path of a task file independent of the working directory; a dataset of the hub has none."""
    return Path(source) if str(source).startswith(HUB) else Path(source).resolve()


def read_file(path: Path) -> tuple[bytes, Iterator[Row]]:
    """Return the content of a file of pairs, and its rows.

    Args:
        path: JSON lines, one JSON array, or CSV with a header.

    Raises:
        TaskError: the file cannot be read, or is none of these; reading the rows raises it too.
    """
    try:
        content = read_bounded(path, LARGEST)
        text = content.decode("utf-8-sig")
    except RecordError as error:
        raise TaskError(f"task file {path}: {error}") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise TaskError(f"task file {path}, line {line}: not UTF-8 text") from error
    where = f"task file {path}"
    start = text.lstrip()[:1]
    if start == "[":
        return content, _array(where, text)
    if start and start not in '{"' and (path.suffix.lower() in (".csv", ".tsv") or _delimiter(text)):
        return content, _table(where, text)
    return content, _lines(where, text)


def _lines(where: str, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{where}, line {number}"
            yield place, _json(place, line)[0]


def _array(where: str, text: str) -> Iterator[Row]:
    start = text.index("[") + 1
    position = _skip_space(text, start)
    line = 1 + text.count("\n", 0, position)
    first = True
    while not text.startswith("]", position):
        if not first and not text.startswith(",", position):
            raise TaskError(f"{where}, line {line}: not JSON: expected ',' or ']'")
        start = position if first else _skip_space(text, position + 1)
        line += text.count("\n", position, start)
        place = f"{where}, line {line}"
        value, end = _json(place, text, start)
        yield place, value
        first = False
        position = _skip_space(text, end)
        line += text.count("\n", start, position)
    end = _skip_space(text, position + 1)
    if end != len(text):
        raise TaskError(f"{where}, line {line + text.count(chr(10), position, end)}: text after the end of the array")


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _json(place: str, text: str, start: int | None = None) -> tuple[object, int]:
    """Return the value that a text is, or that stands at a position of it, and where it ends."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for index, key in enumerate(keys) if key in keys[:index])
            raise TaskError(f"{place}: the key {twice!r:.60} is given twice in one object")
        return content

    decoder = json.JSONDecoder(object_pairs_hook=unique)
    try:
        if start is None:
            return decoder.decode(text), len(text)
        return decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        place = place if start is None else f"{place.rpartition(' ')[0]} {error.lineno}"
        raise TaskError(f"{place}: not JSON: {error.msg} at column {error.colno}{_no_table(text)}") from error
    except RecursionError as error:
        raise TaskError(f"{place}: nested too deep for a pair of prompts") from error
    except ValueError as error:  # a number of too many digits
        raise TaskError(f"{place}: not JSON: {first_line(error)}") from error


def _no_table(text: str) -> str:
    """Say what a table would need, where a text begins with no JSON."""
    return "" if text.lstrip()[:1] in tuple('{["') else "; a CSV needs a header that names its columns, such as clean"


def _delimiter(text: str) -> str:
    """Return what parts the cells of a table whose header names the clean prompt; nothing for any other text."""
    header = text.lstrip().partition("\n")[0]
    for delimiter in ",;\t":
        names = [name.strip().strip('"') for name in header.split(delimiter)]
        if len(names) > 1 and any(name in names for name in SLOTS["clean"]):
            return delimiter
    return ""


def _table(where: str, text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text) or ",", strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            place = f"{where}, line {reader.line_num}"
            if not any(cells):
                continue
            if header is None:
                header = [name.strip() for name in cells]
                if twice := [name for index, name in enumerate(header) if name and name in header[:index]]:
                    raise TaskError(f"{place}: two columns are called {twice[0]!r:.60}")
            elif len(cells) != len(header):
                raise TaskError(f"{place}: {len(cells)} cells, but the header has {len(header)} columns")
            else:
                yield place, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise TaskError(f"{where}, line {reader.line_num}: not CSV: {error}") from error


def read_dataset(source: str) -> tuple[str, Iterator[Row]]:
    """Return the name of a dataset and its rows, through the `datasets` package.

    Args:
        source: `hub:ORG/NAME[@REVISION]?split=...&config=...&clean=COLUMN&counterfactual=COLUMN&answer=COLUMN&
            foil=COLUMN`; all are optional, the split is `train`. A column is a name, `outer.inner`, or `list[index]`
            where `index` is a column too; a `+` in front puts a space before the text.

    Raises:
        TaskError: it cannot be had, or a column is not there; reading the rows raises it too.
    """
    where = f"task data {source}"
    path, _, query = source.removeprefix(HUB).partition("?")
    repository, _, revision = path.partition("@")
    try:
        asked = parse_qs(query, strict_parsing=bool(query))
    except ValueError as error:
        raise TaskError(f"{where}: expected KEY=VALUE&KEY=VALUE behind '?', found {query!r:.60}") from error
    known = ("config", "split", *SLOTS)
    for key, values in asked.items():
        if key not in known or len(values) > 1:
            what = "is given twice" if key in known else f"is not known; use {', '.join(known)}"
            raise TaskError(f"{where}: '{key}' {what}")
    options = {key: values[0] for key, values in asked.items()}
    config, split = options.pop("config", None), options.pop("split", "train")
    for slot, column in options.items():
        if not _COLUMN.fullmatch(column):
            raise TaskError(f"{where}: {slot}={column!r:.60} is no column; use NAME, OUTER.INNER or LIST[INDEX]")
    rows = _load(where, repository, config, split, revision or None)
    return repository.rpartition("/")[2], _picked(where, rows, options)


def _load(where: str, repository: str, config: str | None, split: str, revision: str | None) -> Any:
    import datasets

    if not repository or "/" not in repository:
        raise TaskError(f"{where}: expected hub:ORG/NAME, found {repository!r:.60}")
    # Before version 4 a dataset could bring code along, and the package asked on standard input whether to run it.
    options = {"trust_remote_code": False} if int(datasets.__version__.partition(".")[0]) < 4 else {}
    try:
        with one_line(where, repository, revision):
            return datasets.load_dataset(repository, config, split=split, revision=revision, **options)
    except BasisBenchError as error:
        raise TaskError(str(error)) from error
    except Exception as error:
        raise TaskError(f"{where}: cannot be loaded: {first_line(error)}") from error


def _picked(where: str, rows: Any, columns: Mapping[str, str]) -> Iterator[Row]:
    for number, row in enumerate(rows, start=1):
        place = f"{where}, row {number}"
        if columns:
            row = {**row, **{SLOTS[slot][0]: _value(place, row, column) for slot, column in columns.items()}}
        yield place, row


def _value(place: str, row: Mapping[str, Any], column: str) -> object:
    """Return what stands in a column of a row."""
    match = _COLUMN.fullmatch(column)
    if match is None:
        raise AssertionError(f"{column} was checked before")
    space, path, index = match.groups()
    value = _inner(place, row, path)
    if index is not None:
        at = _inner(place, row, index)
        try:
            value = value[int(at)]
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise TaskError(f"{place}: column '{path}' has nothing at {at!r:.60}, which '{index}' asks for") from error
    return f" {value}" if space and isinstance(value, str) else value


def _inner(place: str, row: Any, path: str) -> Any:
    value = row
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            there = ", ".join(value) if isinstance(value, Mapping) else f"a {type(value).__name__}"
            raise TaskError(f"{place}: no column '{path}'; there is {there:.200}")
        value = value[name]
    return value
