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
    content["curve"]["circuit"][middle(content)][5] += 1.0


def complement(content: Content, _all: object) -> None:
    row = middle(content)
    content["curve"]["complement"][row] = [value - 0.1 for value in content["curve"]["complement"][row]]


def whole_circuit(content: Content, _all: object) -> None:
    content["curve"]["circuit"][-1] = [value + 0.05 for value in content["curve"]["circuit"][-1]]


def swapped(content: Content, _all: object) -> None:
    curve = content["curve"]
    curve["circuit"], curve["complement"] = curve["complement"], curve["circuit"]


def curve_of_another_basis(content: Content, all_: dict[tuple[str, str], Content]) -> None:
    content["curve"] = all_["mlp_act", content["cell"]["method"]]["curve"]


def curve_of_another_method(content: Content, all_: dict[tuple[str, str], Content]) -> None:
    content["curve"] = all_[content["cell"]["basis"], "relp"]["curve"]


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


def halves(content: Content, _all: object) -> None:
    content["subset_checks"][0]["draws"][0] += 0.5


FORGERIES: dict[tuple[str, str], tuple[Forge, str]] = {
    ("mlp_act", "ixg"): (full, "endpoints.full: 1 of 12 values deviate by more than 0.001"),
    ("mlp_act", "magnitude"): (empty, "endpoints.empty: 12 of 12 values deviate"),
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
    ("transcoder", "relp"): (few_sizes, "curve.sizes: "),
    ("transcoder", "magnitude"): (smaller, "cost.dictionary_bytes: 0, the re-run has "),
    ("transcoder", "random"): (whole_circuit, "curve.circuit: "),
    ("resid", "ixg"): (model, "identities.model: the record has 000000000000, here the model's weights"),
    ("resid", "relp"): (data, "identities.data: the record has 000000000000, here the tokenised pairs"),
    ("resid", "magnitude"): (family, "cell.family: attn, the basis is of resid"),
    ("resid", "random"): (no_top_nodes, "top_nodes: 20 of 0 are not among those of the re-run"),
    ("mlp_out", "relp"): (halves, "subset_checks: size 20 deviates by"),
}
MORE: dict[tuple[str, str], tuple[Forge, str]] = {
    ("mlp_act", "ixg"): (older, "made by BasisBench 0.2.9, re-run by "),
    ("mlp_act", "magnitude"): (scores, "top_nodes: a score deviates by "),
    ("mlp_act", "relp"): (cheaper, "cost.forward_equivalents: 10, the re-run took "),
}
ALL = [*FORGERIES.items(), *MORE.items()]
