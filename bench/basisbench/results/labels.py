"""Short labels for long basis names, so that tables and legends stay readable.

A published dictionary is named by where it lies: `KIND:RELEASE:PATTERN`, `KIND:/path/of/a/folder`, `KIND:ORG/NAME`.
What such names share says nothing beside each other. Each name gets the first of these that fits and that no other has:

1. the name itself, where it is short and no path;
2. the kind and the name without its folders, its organisation or its pattern;
3. the kind and the last two folders of a path;
4. the kind and those words of the name that its likes do not all have;
5. the name with an ellipsis in its middle;
6. its beginning and a hash of all of it.

A label stands for a name in one table or picture; the full name stands below it, and in the CSV.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

LABEL_LENGTH = 28
"""Most characters of a label; three fit side by side below an ordinary picture, one in a column of print."""


def short_labels(names: Iterable[str], limit: int = LABEL_LENGTH) -> dict[str, str]:
    """Return a label for every name, distinct among them.

    Args:
        names: basis names as results have them; order and repetition do not matter.
        limit: most characters of a label, at least 12.

    Returns:
        Labels by name; names of at most `limit` characters without a slash are their own labels.

    Raises:
        ValueError: the limit is below 12, which leaves no room for a hash.
    """
    if limit < 12:
        raise ValueError(f"a label needs at least 12 characters, found a limit of {limit}")
    left = sorted(set(names))
    words = _telling_words(left)
    candidates: tuple[Callable[[str], str], ...] = (
        lambda name: name if "/" not in name else "",
        _without_folders,
        _last_folders,
        lambda name: words[name],
        lambda name: _elided(name, limit),
        lambda name: f"{name[: limit - 9]}~{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}",
    )
    labels: dict[str, str] = {}
    for candidate in candidates:
        found = {name: candidate(name) for name in left}
        taken = Counter([*labels.values(), *found.values()])
        labels |= {name: text for name, text in found.items() if 0 < len(text) <= limit and taken[text] == 1}
        left = [name for name in left if name not in labels]
    return labels | {name: name for name in left}  # two hashes agree, or a name was made to look like one


def label_notes(labels: Mapping[str, str]) -> list[str]:
    """Return "label = full name" for every label that is not the name itself, in order of the labels."""
    return [f"{label} = {name}" for name, label in sorted(labels.items(), key=lambda item: item[1]) if label != name]


def _kind(name: str) -> tuple[str, str]:
    """Split "kind:rest" into "kind:" and the rest; a name without a kind has an empty one."""
    kind, colon, rest = name.partition(":")
    return (kind + colon, rest) if colon and "/" not in kind else ("", name)


def _without_folders(name: str) -> str:
    """Return the last folder of a path, the name of ORG/NAME, the release of RELEASE:PATTERN."""
    kind, rest = _kind(name)
    short = rest.partition(":")[0] if ":" in rest else rest.rstrip("/").rpartition("/")[2]
    return kind + short if short else ""


def _last_folders(name: str) -> str:
    """Return the kind and the last two folders of a path; "" for another name."""
    kind, rest = _kind(name)
    folders = rest.rstrip("/").split("/")
    return "" if ":" in rest or len(folders) < 3 else f"{kind}{'/'.join(folders[-2:])}"


def _telling_words(names: Iterable[str]) -> dict[str, str]:
    """Return each name's kind with the words that not all names of its form have; "" where there are none."""
    alike: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for name in names:
        kind, rest = _kind(name)
        alike[kind, ":" in rest].append(name)
    telling: dict[str, str] = {}
    for (kind, _), group in alike.items():
        words = {name: re.findall(r"[^\s:/@_-]+", _kind(name)[1]) for name in group}
        owners = Counter(word for found in words.values() for word in set(found))
        for name, found in words.items():
            text = "-".join(word for word in found if owners[word] < len(group))
            telling[name] = kind + text if text else ""
    return telling


def _elided(text: str, limit: int) -> str:
    """Put an ellipsis into the middle of a text that is too long, after its kind."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return f"{text[: limit - 1 - tail]}…{text[-tail:]}"
