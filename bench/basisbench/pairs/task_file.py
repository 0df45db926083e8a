"""A task from a file of prompt pairs, in the format of Marks et al. 2025 (arXiv 2403.19647; data/ in their code).

The file holds one JSON object per line, or one JSON array of objects, with the string fields `clean_prefix`,
`patch_prefix`, `clean_answer` and `patch_answer`; other fields, such as `case`, are ignored. A file names no roles,
so the whole prompt is one segment and pairs are aligned by their number of tokens alone. An object may have `clusters`,
levels by factor (`{"noun": "doctor"}`), if all have the same; otherwise the words in which its prompts differ are its
level.

The splits are made here, whatever split the file was published as:

1. No prompt, clean or counterfactual, is in both splits. This always holds.
2. Where possible, no word in which the two prompts of a pair differ (uncle/uncles) is a differing word in both
   splits. This is possible if the pairs fall into clusters, linked by such words, that give each split at least a
   quarter of the pairs; `FileTask.words_disjoint` says whether it was. Words that a pair's prompts have in
   common, such as an attractor, may be in both splits.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from basisbench.errors import TaskError
from basisbench.pairs.sentence_frames import generator
from basisbench.types import ContrastPair, Segment, Split

FIELDS = ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer")
SMALLEST_SHARE = 0.25
"""Least share of the pairs that a split must get for the splits to be made by differing words."""

_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class FileTask:
    """A task whose pairs come from a file.

    Attributes:
        name: the file's name without its ending.
        version: the first twelve hexadecimal digits of the SHA-256 of the file's content.
        summary: one line for listings.
        by_split: the pairs of each split, in the order of the file.
        words_disjoint: whether the splits share no differing word, beside sharing no prompt.
    """

    name: str
    version: str
    summary: str
    by_split: Mapping[Split, tuple[ContrastPair, ...]]
    words_disjoint: bool

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        """Yield the pairs of a split in an order drawn from `seed`."""
        pairs = list(self.by_split[split])
        generator(self.name, self.version, split, seed).shuffle(pairs)
        return iter(pairs)


def load_task_file(path: str | Path) -> FileTask:
    """Read a file of prompt pairs as a task.

    Args:
        path: the file, JSON lines or one JSON array.

    Raises:
        TaskError: the file cannot be read or is malformed; names the file, the line and the field.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise TaskError(f"task file {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise TaskError(f"task file {path}, line {line}: not UTF-8 text") from error
    rows = [(_check_row(path, line, value), _check_clusters(path, line, value)) for line, value in _values(path, text)]
    if not rows:
        raise TaskError(f"task file {path}: holds no pairs")
    pairs = list({row: _contrast_pair(row, clusters) for row, clusters in rows}.values())
    by_split, words_disjoint = _split(pairs)
    return FileTask(
        name=path.stem,
        version=hashlib.sha256(content).hexdigest()[:12],
        summary=f"{len(pairs)} distinct pairs from {path.name}",
        by_split=by_split,
        words_disjoint=words_disjoint,
    )


def _values(path: Path, text: str) -> Iterator[tuple[int, object]]:
    """Yield the line number and the value of each JSON object of the file."""
    if text.lstrip().startswith("["):
        yield from _array_values(path, text)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise TaskError(
                    f"task file {path}, line {number}: not JSON: {error.msg} at column {error.colno}"
                ) from error


def _array_values(path: Path, text: str) -> Iterator[tuple[int, object]]:
    decoder = json.JSONDecoder()
    position = _skip_space(text, text.index("[") + 1)
    first = True
    while not text.startswith("]", position):
        try:
            if not first:
                if not text.startswith(",", position):
                    raise json.JSONDecodeError("expected ',' or ']'", text, position)
                position = _skip_space(text, position + 1)
            start = position
            value, position = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            raise TaskError(
                f"task file {path}, line {error.lineno}: not JSON: {error.msg} at column {error.colno}"
            ) from error
        yield text.count("\n", 0, start) + 1, value
        first = False
        position = _skip_space(text, position)
    end = _skip_space(text, position + 1)
    if end != len(text):
        raise TaskError(f"task file {path}, line {text.count(chr(10), 0, end) + 1}: text after the end of the array")


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _check_row(path: Path, line: int, value: object) -> tuple[str, ...]:
    where = f"task file {path}, line {line}"
    if not isinstance(value, dict):
        raise TaskError(f"{where}: expected an object with {', '.join(FIELDS)}, found {type(value).__name__}")
    for field in FIELDS:
        if field not in value:
            raise TaskError(f"{where}: field '{field}' is missing")
        if not isinstance(value[field], str) or not value[field].strip():
            raise TaskError(f"{where}: field '{field}' must be text that is not empty, found {value[field]!r}")
    for other, field in (FIELDS[:2], FIELDS[2:]):
        if value[other] == value[field]:
            raise TaskError(f"{where}: field '{field}' equals '{other}', so the pair has no contrast")
    return tuple(value[field] for field in FIELDS)


def _check_clusters(path: Path, line: int, value: object) -> Mapping[str, str]:
    """Return the levels of an object whose other fields are right."""
    clusters = value.get("clusters", {}) if isinstance(value, dict) else {}
    if isinstance(clusters, dict) and all(clusters) and all(isinstance(x, str) and x for x in clusters.values()):
        return clusters
    raise TaskError(
        f"task file {path}, line {line}: field 'clusters' must be an object of levels by factor, each a text, found "
        f"{clusters!r:.60}"
    )


def _contrast_pair(row: tuple[str, ...], clusters: Mapping[str, str]) -> ContrastPair:
    clean, counterfactual, answer, foil = row
    return ContrastPair(
        template="file",
        clean=(Segment("prompt", clean),),
        counterfactual=(Segment("prompt", counterfactual),),
        answers=(answer,),
        foils=(foil,),
        words=_differing_words(clean, counterfactual),
        clusters=clusters,
    )


def _differing_words(clean: str, counterfactual: str) -> tuple[str, ...]:
    first, second = (Counter(re.findall(r"\w+", text)) for text in (clean, counterfactual))
    return tuple(sorted((first - second) + (second - first)))


def _split(pairs: Sequence[ContrastPair]) -> tuple[dict[Split, tuple[ContrastPair, ...]], bool]:
    """Deal clusters of linked pairs to the splits, by differing words and prompts if that is balanced enough."""

    def prompts(pair: ContrastPair) -> list[Hashable]:
        return [("prompt", pair.clean_text), ("prompt", pair.counterfactual_text)]

    def words_and_prompts(pair: ContrastPair) -> list[Hashable]:
        return [*prompts(pair), *(("word", word) for word in pair.words)]

    by_words = _deal(_clusters(pairs, words_and_prompts))
    if min(map(len, by_words.values())) >= SMALLEST_SHARE * len(pairs):
        return by_words, True
    return _deal(_clusters(pairs, prompts)), False


def _clusters(
    pairs: Sequence[ContrastPair], links: Callable[[ContrastPair], Iterable[Hashable]]
) -> list[list[ContrastPair]]:
    """Join pairs that share a link, directly or through others."""
    parent = list(range(len(pairs)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first_with: dict[Hashable, int] = {}
    for index, pair in enumerate(pairs):
        for link in links(pair):
            parent[root(index)] = root(first_with.setdefault(link, index))
    clusters: dict[int, list[ContrastPair]] = {}
    for index, pair in enumerate(pairs):
        clusters.setdefault(root(index), []).append(pair)
    return list(clusters.values())


def _deal(clusters: Sequence[list[ContrastPair]]) -> dict[Split, tuple[ContrastPair, ...]]:
    """Give each cluster, largest first, to the split that has fewer pairs."""
    dealt: dict[Split, list[ContrastPair]] = {"attribution": [], "evaluation": []}
    for cluster in sorted(clusters, key=lambda cluster: (-len(cluster), cluster[0].clean_text)):
        smaller: Split = "attribution" if len(dealt["attribution"]) <= len(dealt["evaluation"]) else "evaluation"
        dealt[smaller].extend(cluster)
    return {split: tuple(pairs) for split, pairs in dealt.items()}
