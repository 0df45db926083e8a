"""Mutations of what a record says, and all kinds of mutation: an oracle that knows nothing of the checks' code."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from random import Random
from typing import Any

from helpers.mutated_files import (
    ACCEPT,
    Kind,
    Mutation,
    Path,
    at,
    dumped,
    fixed_rows,
    grid_of,
    measured_rows,
    replaced,
    sizes_follow,
    written,
)
from helpers.mutations_of_form import (
    broken_bytes,
    deep_or_huge,
    harmful_text,
    missing_key,
    neutral_number,
    neutral_text,
    no_number,
    renamed_key,
    repeated_key,
    unknown_key,
    wrong_type,
)


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
        (("schema_version",), 1),
        (("schema_version",), -2),
        (("groups", group, "scored_nodes"), 10**9),
        (("counts", "area_end"), step),
        (("clusters", random.choice(["noun", "name", "template"]), example), random.choice([-100, 100])),
        (("curve", "all_units", last), step),
        (("curve", "all_units", 0), 1),
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
            (("subset_checks", 1, "adversarial", 1), abs(moved)),
            (("subset_checks", 1, "adversarial", 0), -abs(moved)),
            (("subset_checks", 0, "adversarial", 0), 1000.0),  # the lower one stands first
            (("subset_checks", 0, "size"), step),
        ]
    error = next((index for index, node in enumerate(content["top_nodes"]) if node["coordinate"] is not None), None)
    if error is not None:
        changes.append((("top_nodes", error, "coordinate"), random.choice([-100, 1000])))
    path, amount = random.choice(changes)
    return Mutation(dumped(replaced(content, path, at(content, path) + amount)), written(path))


def contradiction(content: Any, random: Random) -> Mutation:
    """A value that is good by itself and that another one, or the settings of the cell, do not allow."""
    curve, groups = content["curve"], content["groups"]
    sizes = curve["sizes"]
    added = [index for index, size in enumerate(sizes) if size not in grid_of(content)]
    on_grid = [index for index in range(len(sizes)) if index not in added]
    bound = min(range(len(groups)), key=lambda index: groups[index]["scored_nodes"])
    zeros = [0.0] * len(content["endpoints"]["full"])
    gate, layers = content["endpoints"]["gate_empty"], content["cell"]["layers"]
    changes: list[tuple[Path, Any]] = [
        (("schema_version",), 1),
        (("curve", "complement", random.choice(on_grid)), None),
        (("curve", "complement", random.choice(added)), zeros),
        (("endpoints", "gate_empty"), zeros if gate is None else None),
        (("endpoints", "family_empty"), 0.5 if layers is None else None),
        (
            ("endpoints", "empty_at"),
            random.choice([None, "output" if content["cell"]["ablation"] == "zero" else "nodes"]),
        ),
        (("suite", "tasks"), ["sva_simple"]),
        (("top_nodes", 0, "coordinate"), 5),
        (("top_nodes", 1, "score"), 0.0),
        (("groups", bound, "scored_nodes"), groups[bound]["scored_nodes"] - 1),
        (("groups", bound, "scored_nodes"), 2),
        (("groups", 0, "scored_nodes"), None),
        (("groups", 1, "tokens"), groups[1]["tokens"][1:]),
        (("groups", 1, "tokens"), []),
        (("counts", "area_end"), None),
        (("clusters",), {}),
        (("curve", "all_units"), None),
        (("subset_checks", 1, "adversarial"), None),
    ]
    ranked = any(group["error_nodes"] for group in groups)
    changes.append((("error_share",), random.choice([0.0, 1.5, -0.5]) if ranked else 0.5))  # a top node is an error
    if content["guard"] is not None:
        changes += [
            (("guard", "slope"), random.choice([None, [1.0] * 3])),
            (("groups", 1, "error_nodes"), groups[1]["error_nodes"] + 128),
        ]
    path, value = random.choice(changes)
    told = {"schema_version": "clusters", "scored_nodes": "scored"}.get(str(path[-1]), written(path))
    return Mutation(dumped(replaced(content, path, value)), told)


def chosen_sizes(content: Any, random: Random) -> Mutation:
    """A size left out or put in, with everything that belongs to it: only the curve's own numbers tell."""
    copied = copy.deepcopy(content)
    curve = copied["curve"]
    sizes, count = curve["sizes"], len(curve["sizes"])
    parts = [name for name in curve if name != "complement" and curve[name] is not None]
    if random.random() < 0.5:
        index = random.randrange(1, count - 1)
        for name in (*parts, "complement"):
            curve[name].pop(index)
        return Mutation(dumped(copied), "curve.sizes")
    index = random.choice([index for index in range(2, count) if sizes[index] > sizes[index - 1] + 1])
    size = random.randrange(sizes[index - 1] + 1, sizes[index])
    # Node counts in a straight line between the neighbours, where every group has both.
    share = (size - sizes[index - 1]) / (sizes[index] - sizes[index - 1])
    for name in ("feature_nodes", "error_nodes", "units"):
        low, high = curve[name][index - 1 : index + 1]
        curve[name].insert(index, low + share * (high - low))
    curve["all_units"].insert(index, curve["all_units"][index])
    curve["circuit"].insert(index, curve["circuit"][index - random.randint(0, 1)])
    if curve["kl"] is not None:
        curve["kl"].insert(index, curve["kl"][index])
    curve["complement"].insert(index, random.choice([None, curve["complement"][-1]]))
    sizes.insert(index, size)
    return Mutation(dumped(copied), "curve")


def implausible_cost(content: Any, random: Random) -> Mutation:
    """Costs that no machine has."""
    changes: list[tuple[Path, float]] = [
        (("cost", "seconds", "curve"), random.choice([0, 0.0, 1e-9, 1e-5])),
        (("cost", "seconds", random.choice(["load", "gradients", "scoring", "curve"])), -1.0),
        (("cost", "seconds", random.choice(["load", "gradients", "scoring", "curve"])), 1e12),
        (("cost", "forward_equivalents"), random.choice([0, -5.0, 1.0])),
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
    if rows[inner] is None:
        inner = measured_rows(content)[3]
    if action == 0 and max(abs(a - b) for a, b in zip(rows[end], rows[inner], strict=True)) < 0.1:
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
        changes.append((("subset_checks", 0, "adversarial"), sorted(random.uniform(-30, 30) for _ in range(2))))
    if content["guard"] is not None:
        changes.append((("guard", "fvu", 0), random.uniform(0, 2)))
        changes.append((("guard", "l0", 0), random.uniform(0, 1000)))
    if content["cell"]["granularity"] == "position":
        changes.append((("top_nodes", 0, "role"), random.choice(texts)))
    changes += [
        (("control",), True),
        (("suite",), random.choice([None, {"name": "mine", "tasks": ["ioi"]}])),
        (("clusters", "name", example), random.choice([0, content["clusters"]["name"][example]])),
        (("groups", 0, "tokens", 2), random.choice([text for text in texts if text])),
        (("counts", "area_end"), content["counts"]["area_end"] * random.randint(1, 9)),
    ]
    if content["endpoints"]["gate_empty"] is not None:
        changes.append((("endpoints", "gate_empty", example), random.uniform(-900, 900)))
    if content["endpoints"]["family_empty"] is not None:
        changes.append((("endpoints", "family_empty"), random.uniform(-900, 900)))
    if any(group["error_nodes"] for group in content["groups"]):
        changes.append((("error_share",), random.choice([None, random.uniform(0.001, 1)])))
    if content["guard"] is not None:
        changes.append((("guard", "slope", 1), random.uniform(-2, 2)))
        changes.append((("guard", "loss_recovered"), random.choice([None, random.uniform(-2, 1)])))
    path, value = random.choice(changes)
    if path[:2] == ("curve", "complement") and at(content, path[:-1]) is None:
        path = (*path[:2], 3, path[-1])
    copied = replaced(content, path, value)
    if path[:2] == ("curve", "circuit") and not sizes_follow(copied):
        return Mutation(dumped(copied), "curve.sizes")
    if path[0] == "clusters" and not numbered_as_they_occur(copied["clusters"]["name"]):
        return Mutation(dumped(copied), "clusters.name")
    return Mutation(dumped(copied), ACCEPT, content=copied)


def numbered_as_they_occur(levels: list[int]) -> bool:
    return levels == [list(dict.fromkeys(levels)).index(level) for level in levels]


def hashed_value(content: Any, random: Random) -> Mutation:
    """Another cell under the name of this one."""
    names = ["model", "task", "task_version", "basis", "method", "sizes"]
    changes: list[tuple[Path, Any]] = [
        (("cell", random.choice(names)), random.choice(["other", "../../etc", "a/b", "処理", "x" * 200])),
        (("cell", "family"), "resid"),
        (("cell", "ablation"), random.choice([name for name in ABLATIONS if name != content["cell"]["ablation"]])),
        (("cell", "score_reference"), "counterfactual"),
        (("cell", "score_split"), "evaluation"),
        (("cell", "attribution_draw"), random.randint(1, 9)),
        (("cell", "bos"), random.choice(["always", "never"])),
        (("cell", "ties"), "order"),
        (("cell", "seed"), random.choice([-1, 1, 2**40])),
        (("cell", "attribution_pairs"), random.randint(101, 10**6)),
        (("cell", "evaluation_pairs"), random.randint(7, 10**6)),
        (("identities", random.choice(["model", "data"])), "0" * random.choice([8, 64])),
        (("basisbench",), random.choice(["0.0.1", "9.9", "nightly"])),
    ]
    path, value = random.choice(changes)
    return Mutation(dumped(replaced(content, path, value)), written(path), by_name=True)


ABLATIONS = ("mean", "counterfactual", "zero")

KINDS: Mapping[str, tuple[Kind, int]] = {
    "neutral text": (neutral_text, 200),
    "neutral number": (neutral_number, 200),
    "free value": (free_value, 330),
    "wrong type": (wrong_type, 400),
    "missing key": (missing_key, 160),
    "unknown key": (unknown_key, 160),
    "renamed key": (renamed_key, 160),
    "repeated key": (repeated_key, 160),
    "no number": (no_number, 260),
    "checked number": (checked_number, 500),
    "contradiction": (contradiction, 300),
    "chosen sizes": (chosen_sizes, 160),
    "implausible cost": (implausible_cost, 130),
    "moved rows": (moved_rows, 200),
    "hashed value": (hashed_value, 130),
    "harmful text": (harmful_text, 160),
    "deep or huge": (deep_or_huge, 100),
    "broken bytes": (broken_bytes, 500),
}
"""Kind to how it is made and how many of it a run makes; more than 4,000 in all."""
