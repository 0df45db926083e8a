"""Mutations of a record's form: its text and bytes, its keys, the types of its values, nesting and length."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

from helpers.mutated_files import (
    ACCEPT,
    ANY,
    DEFAULTS,
    MAPPINGS,
    OPTIONAL_FREE,
    OPTIONAL_NULL,
    Mutation,
    at,
    dumped,
    is_hashed,
    leaves,
    objects,
    pattern,
    replaced,
    written,
)


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
    if pattern(path) in ("guard.loss_recovered", "error_share") and value is None:
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
    if pattern(path) in OPTIONAL_NULL and at(content, path) is None:
        return Mutation(dumped(copied), ACCEPT, content=copied)
    if path[0] == "cell" and path[-1] in DEFAULTS and at(content, path) == DEFAULTS[path[-1]]:
        return Mutation(dumped(copied), ACCEPT, content=copied)
    return Mutation(dumped(copied), name, by_name=is_hashed(path))


def unknown_key(content: Any, random: Random) -> Mutation:
    """A key more; where names are free, that is one name more."""
    path = random.choice(list(objects(content)))
    name = random.choice(["surprise", "Seed", "__class__", "$ref", "schema_version2", "../x", "é", "k" * 300])
    if path == ("clusters",):
        levels = random.choice([[0] * 6, [0, 1, 2, 0, 1, 2], [0] * 5, [1] * 6, [], 3])
        copied = replaced(content, (*path, name), levels)
        good = levels in ([0] * 6, [0, 1, 2, 0, 1, 2]) and len(name) <= 200
        return Mutation(dumped(copied), ACCEPT if good else "clusters", content=copied)
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
