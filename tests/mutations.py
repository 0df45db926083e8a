"""Mutations of a record's file, each with what must become of it: an oracle that knows nothing of the checks' code.

1. A kind of mutation takes a record's content and a generator, and returns bytes and a verdict.
2. A verdict is `ACCEPT`, or the path of the field that the refusal must name, or `ANY` where bytes were broken so that
   no field is left to name.

Leaves are told apart by what the definitions say of them: *hashed* ones are part of the cell's id, *checked* ones
follow from others, *free* ones are measured and may be anything within bounds.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

Path: TypeAlias = "tuple[str | int, ...]"

ACCEPT = "accept"
ANY = "any"


@dataclass(frozen=True)
class Mutation:
    """A changed file.

    Attributes:
        data: what the file holds.
        verdict: `ACCEPT`, `ANY`, or the path of the field at fault.
        by_name: a refusal may also say that the file has another cell's name: a field of the cell's id was changed.
        content: what a file that is accepted must hold, where that is not what it held before.
    """

    data: bytes
    verdict: str
    by_name: bool = False
    content: Any = None


Kind: TypeAlias = Callable[[Any, Random], Mutation]


# --- paths ---


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every number, text, truth value and null."""
    if isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    elif not isinstance(value, dict | list):
        yield path


def objects(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every object."""
    if isinstance(value, dict):
        yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from objects(item, (*path, key))


def at(content: Any, path: Path) -> Any:
    """Return what lies at a path."""
    for step in path:
        content = content[step]
    return content


def replaced(content: Any, path: Path, value: Any) -> Any:
    """Return a copy in which one place holds something else."""
    content = copy.deepcopy(content)
    at(content, path[:-1])[path[-1]] = value
    return content


def written(path: Path) -> str:
    """Write a path as messages do: `curve.circuit[3][17]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def pattern(path: Path) -> str:
    """Write a path with its indices left out: `curve.circuit[][]`."""
    return re.sub(r"\[\d+\]", "[]", written(path))


def dumped(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


# --- what the definitions say of a leaf ---

MAPPINGS = ("dropped.attribution", "dropped.evaluation", "environment.packages", "sources")
OPTIONAL_FREE = ("endpoints.empty_at", "sources", "curve.kl", "subset_checks")
"""Keys with a default that no id depends on."""

FREE_TEXTS = ("environment.python", "environment.platform", "environment.processor", "environment.device_name")


def is_hashed(path: Path) -> bool:
    """Tell whether the cell's id depends on a leaf."""
    return path[0] in ("cell", "identities", "basisbench")


def fixed_rows(content: Any, name: str) -> set[int]:
    """Return the rows of a curve that equal an endpoint in every group: the last, and the first where it is not run."""
    count = len(content["curve"]["sizes"])
    return {count - 1} if name == "circuit" and content["cell"]["kl"] else {0, count - 1}


def measured_rows(content: Any) -> list[int]:
    """Return the rows that no group fixes: more than no node, fewer than the smallest group has."""
    smallest = min(group["nodes"] for group in content["groups"])
    return [index for index, size in enumerate(content["curve"]["sizes"]) if 0 < size < smallest]


# --- kinds ---


def neutral_text(content: Any, random: Random) -> Mutation:
    """The same content in other words: white space, order of keys, escapes, a line break at the end."""

    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            keys = list(value)
            random.shuffle(keys)
            return {key: shuffled(value[key]) for key in keys}
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(
        shuffled(content) if random.random() < 0.7 else content,
        indent=random.choice([None, 0, 1]),
        separators=random.choice([(",", ":"), (" ,", " : "), (",\t", ":")]),
        ensure_ascii=random.random() < 0.5,
    )
    if random.random() < 0.5:
        text = text.replace("relp", "\\u0072elp").replace("mean", "me\\u0061n")
    return Mutation((random.choice(["", " ", "\n\r\n"]) + text + random.choice(["", "\n", " \t"])).encode(), ACCEPT)


def neutral_number(content: Any, random: Random) -> Mutation:
    """The same number in other digits: more than five, an exponent, zeros at the end, minus zero."""
    floats = [path for path in leaves(content) if isinstance(at(content, path), float) and path[0] != "endpoints"]
    path = random.choice(floats)
    value = at(content, path)
    marker = "@number@"
    spelled = random.choice(
        [f"{value!r}000" if "e" not in repr(value) else repr(value), f"{value:.17e}", f"{value:.9g}"]
    )
    if value == 0:
        spelled = random.choice(["0", "-0.0", "0e5", "0.000"])
    elif value == int(value) and random.random() < 0.5:
        spelled = str(int(value))
    text = dumped(replaced(content, path, marker)).decode().replace(f'"{marker}"', spelled)
    return Mutation(text.encode(), ACCEPT)


def wrong_type(content: Any, random: Random) -> Mutation:
    """A value of another type."""
    path = random.choice(list(leaves(content)))
    old = at(content, path)
    choices: list[Any] = [[], {}, [old], {"a": old}, True, "\x00", "7"]
    if isinstance(old, str):
        choices = [[], {}, [old], {"a": old}, True, 7, 1.5, None]
    elif isinstance(old, bool):
        choices = [[], {}, "true", 1, 0, 1.0, None]
    elif isinstance(old, int):
        choices += [old + 0.5, None, 1e3 + 0.1]
    elif isinstance(old, float):
        choices += [None]
    elif old is None:
        choices = [True, 1.5, {"a": 1}]
    value = random.choice(choices)
    if pattern(path) in ("endpoints.empty_at",) and value is None:
        return Mutation(dumped(replaced(content, path, value)), ACCEPT, content=replaced(content, path, value))
    if pattern(path) == "created" and not isinstance(value, str):
        value = {}  # a number counts as seconds
    return Mutation(dumped(replaced(content, path, value)), written(path), by_name=is_hashed(path))


def missing_key(content: Any, random: Random) -> Mutation:
    """A key less."""
    keys = [(*path, key) for path in objects(content) if pattern(path) not in MAPPINGS for key in at(content, path)]
    path = random.choice(keys)
    copied = copy.deepcopy(content)
    del at(copied, path[:-1])[path[-1]]
    name = written(path)
    if name in OPTIONAL_FREE and name not in ("curve.kl", "subset_checks"):
        return Mutation(dumped(copied), ACCEPT, content=copied)
    if name == "curve.kl" and at(content, path) is None:
        return Mutation(dumped(copied), ACCEPT, content=copied)
    if path[0] == "cell" and at(content, path) in ("mean", "node", "position", 0, "absolute", "1-2-5", False, None):
        defaults = ("ablation", "error_policy", "granularity", "seed", "ranking", "sizes", "kl", "layers")
        if path[-1] in defaults:
            return Mutation(dumped(copied), ACCEPT, content=copied)
    return Mutation(dumped(copied), name, by_name=is_hashed(path))


def unknown_key(content: Any, random: Random) -> Mutation:
    """A key more; where names are free, that is one name more."""
    path = random.choice(list(objects(content)))
    name = random.choice(["surprise", "Seed", "__class__", "$ref", "schema_version2", "../x", "é", "k" * 300])
    if pattern(path) in MAPPINGS:
        copied = replaced(content, (*path, name), 3 if path[0] == "dropped" else "0" * 40)
        if len(name) > 200 and path[0] != "dropped":
            return Mutation(dumped(copied), written(path))
        return Mutation(dumped(copied), ACCEPT, content=copied)
    copied = replaced(content, (*path, name), random.choice([1, None, [], {}]))
    return Mutation(dumped(copied), written((*path, name[:50])))


def renamed_key(content: Any, random: Random) -> Mutation:
    """A key in other letters."""
    required = [
        (*path, key)
        for path in objects(content)
        if pattern(path) not in MAPPINGS
        for key in at(content, path)
        if written((*path, key)) not in OPTIONAL_FREE
    ]
    path = random.choice(required)
    new = random.choice([path[-1].upper(), f"{path[-1]} ", f"{path[-1]}s", path[-1][:-1]])  # type: ignore[union-attr]
    parent = {new if key == path[-1] else key: value for key, value in at(content, path[:-1]).items()}
    copied = replaced(content, path[:-1], parent) if path[:-1] else parent
    return Mutation(dumped(copied), written(path)[:-1])


def repeated_key(content: Any, random: Random) -> Mutation:
    """A key twice, with the same or another value."""
    keys = [(*path, key) for path in objects(content) for key in at(content, path)]
    path = random.choice(keys)
    value = at(content, path)
    marker = "@key@"
    parent = {**at(content, path[:-1]), marker: value}
    copied = replaced(content, path[:-1], parent) if path[:-1] else parent
    text = dumped(copied).decode().replace(f'"{marker}":', f"{json.dumps(path[-1])}:")
    return Mutation(text.encode(), written(path))


def no_number(content: Any, random: Random) -> Mutation:
    """NaN, infinities and numbers beyond all bounds."""
    numbers = [path for path in leaves(content) if type(at(content, path)) in (int, float)]
    path = random.choice(numbers)
    spelled = random.choice(["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 400 + ".5", "1e99999"])
    if isinstance(at(content, path), int):
        spelled = random.choice(
            [spelled, "9" * 20, "-" + "9" * 20, "1" + "0" * 400, "1" + "0" * 5000, "-" + "8" * 4299]
        )
    text = dumped(replaced(content, path, "@number@")).decode().replace('"@number@"', spelled)
    # Of numbers with thousands of digits the parser tells line and column.
    return Mutation(text.encode(), ANY if len(spelled) > 4000 else written(path))


def checked_number(content: Any, random: Random) -> Mutation:
    """A number that others contradict: off by one in counts and sizes, moved in endpoints and ends of the curve."""
    curve, groups = content["curve"], content["groups"]
    last = len(curve["sizes"]) - 1
    group, example = random.randrange(len(groups)), random.randrange(len(content["endpoints"]["full"]))
    row = random.choice(sorted(fixed_rows(content, "circuit")))
    other = random.choice(sorted(fixed_rows(content, "complement")))
    anywhere = random.randint(0, last)
    layer = random.randrange(content["counts"]["layers"])
    moved = random.choice([-1, 1]) * random.choice([0.05, 0.5, 7.0])
    step = random.choice([-1, 1])
    changes: list[tuple[Path, float]] = [
        (("curve", "sizes", random.randint(0, last)), step),
        (("curve", "sizes", last), step * 1000),
        (("groups", group, "evaluation_pairs"), step),
        (("groups", group, "attribution_pairs"), 1),
        (("groups", group, "positions"), step),
        (("groups", group, "nodes"), step),
        (("groups", group, "error_nodes"), step),
        (("counts", "nodes_mean"), step * content["counts"]["nodes_mean"] * random.choice([0.001, 0.5])),
        (("counts", "nodes_max"), step),
        (("counts", "layers"), step),
        (("counts", "units_per_layer", layer), step),
        (("endpoints", "accuracy"), -0.1),
        (("endpoints", "full", example), moved),
        (("curve", "circuit", row, example), moved),
        (("curve", "complement", other, example), moved),
        (("curve", "feature_nodes", anywhere), step * max(1.0, 0.01 * curve["feature_nodes"][anywhere])),
        (("curve", "error_nodes", anywhere), step * max(1.0, 0.01 * curve["feature_nodes"][anywhere])),
        (("curve", "units", last), step),
        (("curve", "units", 0), 1.0),
        (("schema_version",), step),
        (("top_nodes", 3, "layer"), 100),
        (("top_nodes", 0, "unit"), 10**6),
    ]
    if not content["cell"]["kl"] or row != 0:
        changes.append((("endpoints", "empty", example), moved))
    if content["cell"]["granularity"] == "position":
        changes.append((("top_nodes", 0, "position"), 100))
    else:
        changes = [change for change in changes if change[0][-1] != "positions"]
    if curve["kl"] is not None:
        changes.append((("curve", "kl", last), 1.0))
    if content["subset_checks"]:
        changes += [
            (("subset_checks", 1, "draws", random.randrange(3)), moved),
            (("subset_checks", 0, "size"), step),
        ]
    path, amount = random.choice(changes)
    return Mutation(dumped(replaced(content, path, at(content, path) + amount)), written(path))


def implausible_cost(content: Any, random: Random) -> Mutation:
    """Costs that no machine has."""
    changes: list[tuple[Path, float]] = [
        (("cost", "seconds", "curve"), random.choice([0, 0.0, 1e-9, 1e-5])),
        (("cost", "seconds", random.choice(["load", "gradients", "scoring", "curve"])), -1.0),
        (("cost", "seconds", random.choice(["load", "gradients", "scoring", "curve"])), 1e12),
        (("cost", "seconds", "gradients"), 0),
        (("cost", "forward_equivalents"), random.choice([0, -5.0, 1.0, 99.0])),
        (("cost", "forward_equivalents"), 1e20),
        (("cost", "peak_memory_bytes"), random.choice([0, 1, 4096, -1])),
        (("cost", "peak_memory_bytes"), 2**53 - 1),
        (("cost", "dictionary_bytes"), random.choice([-1, 2**53 - 1])),
        (("environment", "threads"), random.choice([0, -1, 10**7])),
    ]
    if content["identities"]["dictionary"] is not None:
        changes.append((("cost", "dictionary_bytes"), 0))
        changes.append((("cost", "peak_memory_bytes"), content["cost"]["dictionary_bytes"] - 1))
    path, value = random.choice(changes)
    return Mutation(dumped(replaced(content, path, value)), written(path))


def moved_rows(content: Any, random: Random) -> Mutation:
    """Rows, columns and entries swapped, taken away, repeated."""
    name = random.choice(["circuit", "complement"])
    copied = copy.deepcopy(content)
    curve = copied["curve"]
    rows, last = curve[name], len(curve["sizes"]) - 1
    end = random.choice(sorted(fixed_rows(content, name)))
    inner = random.choice(measured_rows(content)[2:])
    action = random.randrange(8)
    if max(abs(a - b) for a, b in zip(rows[end], rows[inner], strict=True)) < 0.1 and action == 0:
        action = 1  # rows that are nearly equal may change places
    path = ("curve", name)
    if action == 0:
        rows[end], rows[inner] = rows[inner], rows[end]
        return Mutation(dumped(copied), written((*path, end)))
    if action == 1:
        rows.pop(random.randint(0, last))
    elif action == 2:
        rows.append(rows[random.randint(0, last)])
    elif action == 3:
        rows[inner].pop()
    elif action == 4:
        rows[inner] = rows[inner] * 500
    elif action == 5:
        rows[inner] = []
    elif action == 6:
        path = ("curve", "sizes")
        sizes = curve["sizes"]
        sizes[inner], sizes[inner - 1] = sizes[inner - 1], sizes[inner]
    else:
        path = ("curve", random.choice(["feature_nodes", "units"]))
        values = curve[path[1]]
        inner = next(index for index in range(2, last) if values[index] > values[index - 1])
        values[inner], values[inner - 1] = values[inner - 1], values[inner]
    return Mutation(dumped(copied), written(path))


def free_value(content: Any, random: Random) -> Mutation:
    """A measured value, a text or a date that nothing else contradicts: it must be accepted as it stands."""
    curve = content["curve"]
    row, example = random.choice(measured_rows(content)), random.randrange(len(content["endpoints"]["full"]))
    factor = random.uniform(0.5, 2.0)
    texts = ["", "Ünïcödé 処理 …", "<script>alert(1)</script>", "a|b", "../../x", "'; --", "=1+1", "x" * 1999]
    changes: list[tuple[Path, Any]] = [
        (("curve", "circuit", row, example), random.uniform(-900, 900)),
        (("curve", "complement", row, example), random.choice([0.0, -0.0, 5e-324, 1e-300, 999999.0, -1e5])),
        (("created",), random.choice(["2024-02-29T12:00:00Z", "2026-01-22T00:00:00+05:30"])),
        (("dropped", "attribution"), {random.choice(texts): random.randrange(10**6)}),
        (("environment", "processor"), random.choice(texts)),
        (("environment", "device_name"), random.choice(texts)),
        (("environment", "packages"), {"torch": random.choice(texts)}),
        (("environment", "threads"), random.randint(1, 256)),
        (("cost", "seconds", "curve"), content["cost"]["seconds"]["curve"] * factor),
        (("cost", "seconds", "load"), random.choice([0, 0.0, 12.5, 9000.0])),
        (("cost", "forward_equivalents"), content["cost"]["forward_equivalents"] * random.choice([1, 2.5, 1000])),
        (("cost", "peak_memory_bytes"), content["cost"]["peak_memory_bytes"] * random.randint(1, 90)),
        (("sources",), {random.choice(["a/b", "ü"]): random.choice([text for text in texts if 0 < len(text) < 200])}),
        (("groups", 0, "attribution_pairs"), random.randint(1, 50)),
    ]
    if curve["kl"] is not None:
        changes.append((("curve", "kl", row), random.uniform(0, 30)))
    if content["subset_checks"]:
        changes.append((("subset_checks", 0, "draws", 1), random.uniform(-30, 30)))
    if content["guard"] is not None:
        changes.append((("guard", "fvu", 0), random.uniform(0, 2)))
        changes.append((("guard", "l0", 0), random.uniform(0, 1000)))
    if content["cell"]["granularity"] == "position":
        changes.append((("top_nodes", 0, "role"), random.choice(texts)))
    path, value = random.choice(changes)
    copied = replaced(content, path, value)
    return Mutation(dumped(copied), ACCEPT, content=copied)


def hashed_value(content: Any, random: Random) -> Mutation:
    """Another cell under the name of this one."""
    names = ["model", "task", "task_version", "basis", "method", "sizes"]
    changes: list[tuple[Path, Any]] = [
        (("cell", random.choice(names)), random.choice(["other", "../../etc", "a/b", "処理", "x" * 200])),
        (("cell", "family"), "resid"),
        (("cell", "ablation"), random.choice(["zero", "counterfactual"])),
        (("cell", "seed"), random.choice([-1, 1, 2**40])),
        (("cell", "attribution_pairs"), random.randint(101, 10**6)),
        (("cell", "evaluation_pairs"), random.randint(7, 10**6)),
        (("identities", random.choice(["model", "data"])), "0" * random.choice([8, 64])),
        (("basisbench",), random.choice(["0.0.1", "9.9", "nightly"])),
    ]
    path, value = random.choice(changes)
    return Mutation(dumped(replaced(content, path, value)), written(path), by_name=True)


def harmful_text(content: Any, random: Random) -> Mutation:
    """Control characters, line breaks, marks of direction, and texts beyond their length."""
    texts = [path for path in leaves(content) if isinstance(at(content, path), str)]
    path = random.choice(texts)
    value = at(content, path)
    harm = random.choice(
        ["\x00", "\n", "\r", "\x1b[2J", "\x1b]0;x\x07", "\u202e", "\u2028", "\x7f", "\x9b", "\u200b", "\ufeff"]
    )
    where = random.randint(0, len(value))
    changed = random.choice([value[:where] + harm + value[where:], harm, "x" * 30_000, "é" * 9000])
    return Mutation(dumped(replaced(content, path, changed)), written(path), by_name=is_hashed(path))


def deep_or_huge(content: Any, random: Random) -> Mutation:
    """Nested deeply, or long beyond reason."""
    path = random.choice(list(leaves(content)))
    depth = random.choice([10, 100, 1000, 20_000])
    huge = random.choice(
        [
            "[" * depth + "]" * depth,
            '{"a":' * depth + "1" + "}" * depth,
            "[" + "0," * 20_000 + "0]",
            '"' + "x" * 60_000 + '"',
        ]
    )
    text = dumped(replaced(content, path, "@huge@")).decode().replace('"@huge@"', huge)
    return Mutation(text.encode(), ANY if len(huge) > 1000 else written(path))


def broken_bytes(content: Any, random: Random) -> Mutation:
    """Bytes cut off, flipped, put in, taken out; other encodings. Accepted only if what is read keeps every rule."""
    data = bytearray(dumped(content))
    where = random.randrange(len(data))
    action = random.randrange(9)
    if action == 0:
        del data[where:]
    elif action == 1:
        data[where] ^= 1 << random.randrange(8)
    elif action == 2:
        data[where:where] = random.randbytes(random.randint(1, 4))
    elif action == 3:
        del data[where : where + random.randint(1, 40)]
    elif action == 4:
        data[where:where] = random.choice(
            [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x00", b'"', b"{", b","]
        )
    elif action == 5:
        data = bytearray(data.decode().encode(random.choice(["utf-8-sig", "utf-16", "utf-32", "utf-16-le"])))
    elif action == 6:
        data = bytearray(
            bytes(data).replace(b"pocket-llama", random.choice([rb"\ud800", rb"\udc00x", rb"\ud83d", rb"\x41"]))
        )
    elif action == 7:
        other = random.randrange(len(data))
        low, high = sorted((where, other))
        data[low:high] = data[low:high][::-1]
    else:
        data += random.choice([b"{}", b"x", b"\x00", bytes(data[:50]), b"]"])
    return Mutation(bytes(data), ANY)


KINDS: Mapping[str, tuple[Kind, int]] = {
    "neutral text": (neutral_text, 600),
    "neutral number": (neutral_number, 600),
    "free value": (free_value, 1000),
    "wrong type": (wrong_type, 1200),
    "missing key": (missing_key, 500),
    "unknown key": (unknown_key, 500),
    "renamed key": (renamed_key, 500),
    "repeated key": (repeated_key, 500),
    "no number": (no_number, 800),
    "checked number": (checked_number, 1500),
    "implausible cost": (implausible_cost, 400),
    "moved rows": (moved_rows, 600),
    "hashed value": (hashed_value, 400),
    "harmful text": (harmful_text, 500),
    "deep or huge": (deep_or_huge, 300),
    "broken bytes": (broken_bytes, 1500),
}
"""Kind to how it is made and how many of it a run makes; more than 10,000 in all."""
