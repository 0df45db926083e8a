"""Forgeries of records, each with the words in which `basisbench verify` must tell it.

A forgery changes the content of one record; it may take parts from the others, by basis and method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Content = dict[str, Any]
Forge = Callable[[Content, dict[tuple[str, str], Content]], None]


def middle(content: Content) -> int:
    """Return the first size whose faithfulness reaches 0.8: one that is always compared."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    full, empty = mean(content["endpoints"]["full"]), mean(content["endpoints"]["empty"])
    return next(
        row
        for row, values in enumerate(content["curve"]["circuit"])
        if mean(values) - empty >= 0.8 * (full - empty) and row > 0
    )


def full(content: Content, _all: object) -> None:
    content["endpoints"]["full"][3] += 0.05


def empty(content: Content, _all: object) -> None:
    content["endpoints"]["empty"] = [value - 0.05 for value in content["endpoints"]["empty"]]


def circuit(content: Content, _all: object) -> None:
    row = middle(content)
    content["curve"]["circuit"][row] = [value + 0.1 for value in content["curve"]["circuit"][row]]


def one_value(content: Content, _all: object) -> None:
    values = content["curve"]["circuit"][middle(content)]
    values[5] += 1.0
    values[6] -= 1.0


def complement(content: Content, _all: object) -> None:
    row = content["curve"]["sizes"].index(10)
    content["curve"]["complement"][row] = [value - 0.1 for value in content["curve"]["complement"][row]]


def hair(content: Content, _all: object) -> None:
    """Raise the size before the one that reaches 80% just over it: the smallest change that lowers `nodes_to_80`."""
    row = middle(content) - 1
    mean = [sum(values) / len(values) for values in (content["endpoints"]["full"], content["endpoints"]["empty"])]
    values = content["curve"]["circuit"][row]
    amount = mean[1] + 0.8001 * (mean[0] - mean[1]) - sum(values) / len(values)
    content["curve"]["circuit"][row] = [value + amount for value in values]


def suspicious(content: Content, _all: object) -> None:
    """Claim a size that nobody asked for, with values that nothing contradicts."""
    curve = content["curve"]
    sizes = curve["sizes"]
    row = next(index for index in range(2, len(sizes)) if sizes[index] > sizes[index - 1] + 2)
    sizes.insert(row, sizes[row - 1] + 1)
    for name in ("feature_nodes", "error_nodes", "units", "all_units", "circuit"):
        curve[name].insert(row, curve[name][row])
    curve["complement"].insert(row, None)


def clusters(content: Content, _all: object) -> None:
    """Claim other levels, such as make intervals narrower."""
    content["clusters"] = {factor: [0] * len(levels) for factor, levels in content["clusters"].items()}


def scored(content: Content, _all: object) -> None:
    """Claim that more nodes have a score, by a careful hand: what is reached at random counts as reached."""
    curve, groups = content["curve"], content["groups"]
    sizes = curve["sizes"]
    old = sizes.index(min(group["scored_nodes"] for group in groups if group["scored_nodes"] < group["nodes"]))
    claimed = (sizes[-2] + sizes[-1]) // 2
    for group in groups:
        group["scored_nodes"] = min(claimed, group["nodes"])
    for rows in filter(None, curve.values()):
        rows.insert(len(rows) - 1, rows[-2])
        rows.pop(old)
    sizes[-2] = claimed
    for group_nodes in ("feature_nodes", "error_nodes"):
        curve[group_nodes][-2] = sum(curve[group_nodes][-3::2]) / 2


def calibrated(content: Content, _all: object) -> None:
    content["guard"]["slope"] = [1.0] * len(content["guard"]["slope"])


def whole_circuit(content: Content, _all: object) -> None:
    content["curve"]["circuit"][-1] = [value + 0.05 for value in content["curve"]["circuit"][-1]]


def swapped(content: Content, _all: object) -> None:
    curve = content["curve"]
    for row, complement in enumerate(curve["complement"]):
        if complement is not None:
            curve["circuit"][row], curve["complement"][row] = complement, curve["circuit"][row]


def curve_of_another_basis(content: Content, all_: dict[tuple[str, str], Content]) -> None:
    with_values_of(content, all_["mlp_act", content["cell"]["method"]])


def curve_of_another_method(content: Content, all_: dict[tuple[str, str], Content]) -> None:
    with_values_of(content, all_[content["cell"]["basis"], "relp"])


def with_values_of(content: Content, other: Content) -> None:
    """Take the values of another record at every size, its nearest where it has none."""
    for row, size in enumerate(content["curve"]["sizes"]):
        sizes = other["curve"]["sizes"]
        nearest = min(range(len(sizes)), key=lambda index: (abs(sizes[index] - size), index))
        content["curve"]["circuit"][row] = other["curve"]["circuit"][nearest]


def ranking_of_another_method(content: Content, all_: dict[tuple[str, str], Content]) -> None:
    content["top_nodes"] = all_[content["cell"]["basis"], "relp"]["top_nodes"]


def no_top_nodes(content: Content, _all: object) -> None:
    content["top_nodes"] = []


def scores(content: Content, _all: object) -> None:
    content["top_nodes"] = [{**node, "score": node["score"] * 1.2} for node in content["top_nodes"]]


def few_sizes(content: Content, _all: object) -> None:
    curve = content["curve"]
    content["curve"] = {name: rows and [rows[0], rows[-1]] for name, rows in curve.items()}


def fit(content: Content, _all: object) -> None:
    content["guard"]["fvu"] = [value / 2 for value in content["guard"]["fvu"]]


def node_counts(content: Content, _all: object) -> None:
    curve = content["curve"]
    curve["error_nodes"] = [0.0] * len(curve["sizes"])
    curve["feature_nodes"] = [float(size) for size in curve["sizes"]]


def cheaper(content: Content, _all: object) -> None:
    content["cost"]["forward_equivalents"] = 10.0


def smaller(content: Content, _all: object) -> None:
    content["cost"]["dictionary_bytes"] = 0


def dictionary(content: Content, _all: object) -> None:
    content["identities"]["dictionary"] = "0" * 64


def model(content: Content, _all: object) -> None:
    content["identities"]["model"] = "0" * 64


def data(content: Content, _all: object) -> None:
    content["identities"]["data"] = "0" * 64


def family(content: Content, _all: object) -> None:
    content["cell"]["family"] = "attn"


def older(content: Content, _all: object) -> None:
    content["basisbench"] = "0.2.9"
    circuit(content, _all)


def trained(content: Content, _all: object) -> None:
    content["training"] = {"first_position": 0, "tokens": 10**9, "kind": "SAE"}


def halves(content: Content, _all: object) -> None:
    content["subset_checks"][0]["draws"][0] += 0.5


def adversarial(content: Content, _all: object) -> None:
    content["subset_checks"][0]["adversarial"][1] += 0.5


FORGERIES: dict[tuple[str, str], tuple[Forge, str]] = {
    ("mlp_act", "ixg"): (full, "endpoints.full: 1 of 8 values deviate by more than 0.001"),
    ("mlp_act", "magnitude"): (empty, "endpoints.empty: 8 of 8 values deviate"),
    ("mlp_act", "random"): (ranking_of_another_method, "top_nodes: "),
    ("mlp_act_rotated", "ixg"): (curve_of_another_basis, "curve.circuit: "),
    ("mlp_act_rotated", "relp"): (circuit, "curve.circuit: "),
    ("mlp_act_rotated", "magnitude"): (one_value, "curve.circuit: at size "),
    ("mlp_act_rotated", "random"): (curve_of_another_method, "curve.circuit: "),
    ("sae_mlp_out", "ixg"): (complement, "curve.complement: "),
    ("sae_mlp_out", "relp"): (swapped, "curve.circuit: "),
    ("sae_mlp_out", "magnitude"): (fit, "guard.fvu: "),
    ("sae_mlp_out", "random"): (node_counts, "curve.error_nodes: "),
    ("transcoder", "ixg"): (dictionary, "identities.dictionary: the record has 000000000000, here the basis' trained"),
    ("transcoder", "relp"): (few_sizes, "curve.sizes[1]: the grid 1-2-5 of "),
    ("transcoder", "magnitude"): (smaller, "cost.dictionary_bytes: 0, the re-run has "),
    ("transcoder", "random"): (whole_circuit, "curve.circuit: "),
    ("resid", "ixg"): (model, "identities.model: the record has 000000000000, here the model's weights"),
    ("resid", "relp"): (data, "identities.data: the record has 000000000000, here the tokenised pairs"),
    ("resid", "magnitude"): (family, "cell.family: attn, the basis is of resid"),
    ("mlp_out", "ixg"): (hair, "curve.circuit: at size "),
    ("mlp_out", "magnitude"): (suspicious, "curve.sizes["),
    ("resid", "random"): (no_top_nodes, "top_nodes: 20 of 0 are not among those of the re-run"),
    ("mlp_out", "relp"): (halves, "subset_checks: size 20 deviates by"),
}
MORE: dict[tuple[str, str], tuple[Forge, str]] = {
    ("mlp_act", "ixg"): (older, "made by BasisBench 0.2.9, re-run by "),
    ("mlp_act", "magnitude"): (scores, "top_nodes: a score deviates by "),
    ("mlp_out", "relp"): (adversarial, "subset_checks: adversarial halves of size 20 deviate by "),
    ("mlp_act", "random"): (clusters, "clusters: differs from the re-run's"),
    ("sae_mlp_out", "relp"): (scored, "groups[0].scored_nodes: "),
    ("sae_mlp_out", "random"): (calibrated, "guard.slope: deviates by more than 0.1%"),
    ("sae_mlp_out", "magnitude"): (trained, "training: differs from the re-run's"),
    ("mlp_act", "relp"): (cheaper, "cost.forward_equivalents: 10, the re-run took "),
}
ALL = [*FORGERIES.items(), *MORE.items()]
