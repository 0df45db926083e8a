"""Which cells may stand side by side, and under which title.

1. Two cells are comparable when they agree in everything but task, basis and method. The columns that must agree are
   `CONDITIONS`; tables and pictures are made for one set of conditions, and their titles state it.
2. A basis that leaves no error has the same values under every error policy: its cells stand beside those of
   dictionaries under each of theirs (`join_policies`).
3. One of them, the layers that bases are compared on, belongs to a family: a run may restrict one family and not
   another. As bases are compared inside a family only, families of different layers share tables and pictures, whose
   titles name the layers of each; two sets of layers for one family never do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pandas as pd

from basisbench.errors import RecordError
from basisbench.results.display import family_order, unique
from basisbench.types import Ablation, Bos, ErrorPolicy, Granularity, Metric, ScoreReference, ScoreSplit

CONDITIONS = (
    "model",
    "model_hash",
    "basisbench",
    "ablation",
    "granularity",
    "score_reference",
    "score_split",
    "bos",
    "metric",
    "attribution_draw",
    "error_policy",
    "ranking",
    "ties",
    "size_grid",
    "seed",
    "attribution_pairs",
    "evaluation_pairs",
    "layers",
)
"""Columns that must agree before two cells are put side by side; tasks are told apart by name and version besides, and
`layers` are compared inside a family. Parts stand in the order of these columns, the main conditions first, and
larger models before smaller ones."""

_ORDER: Mapping[str, Sequence[object]] = {
    "ablation": get_args(Ablation),
    "granularity": get_args(Granularity),
    "score_reference": get_args(ScoreReference),
    "score_split": get_args(ScoreSplit),
    "bos": get_args(Bos),
    "metric": get_args(Metric),
    "ties": ("random", "order"),
    "error_policy": get_args(ErrorPolicy),
}
"""Order of values, where it is not that of the alphabet."""

_SCORED_ON: Mapping[object, str] = {
    "evaluation": "held in: scores on the evaluation pairs",
    "other_templates": "scores of the other half of the templates",
}
"""What titles say of pairs that scores are taken on, but for the usual ones."""

ALL_LAYERS = "all"
"""What the column `layers` says where a family is not restricted."""


def split_conditions(frame: pd.DataFrame, *, repeated: bool = False) -> list[tuple[str, pd.DataFrame]]:
    """Split a frame of results into comparable parts, each with a title that states its conditions.

    Rows of exact bases are in the parts of all error policies of the dictionaries beside them (`join_policies`).
    Larger models come first: those whose circuits are taken from more nodes.

    Args:
        frame: what `load_results` or `summarise` returned.
        repeated: whether cells may agree in task, basis and method too, because they are told apart in another way.

    Returns:
        (title, part) for each set of conditions; titles differ from each other, and name the version of BasisBench
        where there is more than one.

    Raises:
        RecordError: two cells under the same conditions agree in task, basis and method too, so that a picture would
            mix them.
    """
    shared = [name for name in CONDITIONS if name != "layers"]
    parts: list[pd.DataFrame] = []
    layers: list[list[str]] = []
    frame = join_policies(frame)
    nodes = frame.groupby("model")["total_nodes"].max()
    for _, whole in sorted(
        frame.groupby(shared), key=lambda item: [-nodes[item[0][0]], *map(place_of, shared, item[0])]
    ):
        split = _split_layers(whole)
        parts += split
        layers += [_layer_pieces(part, always=len(split) > 1) for part in split]
    titles = [_title(part, named, in_full=False) for part, named in zip(parts, layers, strict=True)]
    if len(set(titles)) < len(titles) or frame["basisbench"].nunique() > 1:
        titles = [_title(part, named, in_full=True) for part, named in zip(parts, layers, strict=True)]
    for part in parts if not repeated else ():
        _refuse_mixtures(part)
    return list(zip(titles, parts, strict=True))


def join_policies(frame: pd.DataFrame) -> pd.DataFrame:
    """Put exact bases beside dictionaries under every error policy that these have.

    Args:
        frame: what `load_results` or `summarise` returned.

    Returns:
        The same rows, but those of an exact basis once for each error policy of the dictionaries of its conditions,
        family and method, `error_policy` saying which; where there is no dictionary, once. A cell that an exact basis
        has under several policies counts once in each. The index is new unless nothing changes.
    """
    if frame["error_policy"].nunique() < 2 or not frame["exact"].any():
        return frame
    alike = [name for name in CONDITIONS if name not in ("error_policy", "layers")] + ["family", "method"]
    dictionaries, exact = frame[~frame["exact"]], frame[frame["exact"]]
    beside = {key: unique(rows, "error_policy") for key, rows in dictionaries.groupby(alike)}
    pieces = [dictionaries]
    for key, rows in exact.groupby(alike):
        own = rows["error_policy"].map(lambda policy: place_of("error_policy", policy))
        twins = [rows[name] for name in ("task", "task_version", "basis", "layers")]
        for policy in beside.get(key) or [
            min(rows["error_policy"], key=lambda policy: place_of("error_policy", policy))
        ]:
            place = own.where(rows["error_policy"] != policy, -1)
            pieces.append(rows[place == place.groupby(twins).transform("min")].assign(error_policy=policy))
    return pd.concat(pieces).sort_index(kind="stable").reset_index(drop=True)


def place_of(name: str, value: Any) -> Any:
    """Return the sort key of a condition's value."""
    order = _ORDER.get(name, ())
    return order.index(value) if value in order else value


def layers_text(layers: Sequence[int] | None) -> str:
    """Write the layers that a family is restricted to.

    Args:
        layers: numbers of layers in any order; None for all.

    Returns:
        "all", or runs of numbers in order, for example "0-3, 7".
    """
    if layers is None:
        return ALL_LAYERS
    runs: list[list[int]] = []
    for layer in sorted(set(layers)):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def examples_text(frame: pd.DataFrame) -> str:
    """Return the number of evaluation examples behind each value, for example "n = 100" or "n = 64 to 100"."""
    low, high = int(frame["examples"].min()), int(frame["examples"].max())
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def _title(part: pd.DataFrame, layers: Sequence[str], *, in_full: bool) -> str:
    first = part.iloc[0]
    pieces = [
        str(first["model"]),
        f"{first['ablation']} ablation",
        f"error policy {first['error_policy']}",
        f"granularity {first['granularity']}",
        f"seed {first['seed']}",
        *_unusual(first),
        f"{examples_text(part)} examples",
        *layers,
    ]
    if in_full:
        pieces += [
            f"weights {first['model_hash']}",
            f"BasisBench {first['basisbench']}",
            f"pairs {first['attribution_pairs']}/{first['evaluation_pairs']}",
            f"ranking {first['ranking']}",
            f"sizes {first['size_grid']}",
        ]
    return ", ".join(pieces)


def _unusual(first: pd.Series) -> list[str]:
    """Return what a title says of conditions that have one usual value: nothing where they have it."""
    said = {
        "score_reference": ("ablation", "scores for the {} value"),
        "score_split": ("attribution", "{}"),
        "bos": ("auto", "bos {}"),
        "metric": ("logit", "metric {}"),
        "attribution_draw": (0, "attribution draw {}"),
        "ties": ("random", "ties by {}"),
    }
    found = {name: first[name] for name, (usual, _) in said.items() if first[name] != usual}
    return [said[name][1].format(_SCORED_ON.get(value, value)) for name, value in found.items()]


def _split_layers(part: pd.DataFrame) -> list[pd.DataFrame]:
    """Split rows that agree in all else so that no family has two sets of layers; most often there is one part.

    The first part has each family on the first of its sets of layers, the second on the second, and so on; a family
    with fewer sets is in the first parts only. Which families share a part does not matter: none is compared with
    another.
    """
    if part["layers"].nunique() == 1:
        return [part]
    ranks: Mapping[tuple[str, str], int] = {
        (family, layers): rank
        for family, rows in part.groupby("family")
        for rank, layers in enumerate(sorted(unique(rows, "layers"), key=_layer_order))
    }
    rank = pd.Series([ranks[key] for key in zip(part["family"], part["layers"], strict=True)], index=part.index)
    return [rows for _, rows in part.groupby(rank)]


def _layer_order(text: str) -> tuple[bool, list[int]]:
    """Return the sort key of a set of layers: all of them first, then by their numbers."""
    numbers = [] if text == ALL_LAYERS else [int(number) for number in text.replace("-", ", ").split(", ")]
    return (text != ALL_LAYERS, numbers)


def _layer_pieces(part: pd.DataFrame, *, always: bool) -> list[str]:
    """Return what a title says of layers: every restricted family; where there is none nothing, or that it is so."""
    layers = {str(family): str(text) for family, text in zip(part["family"], part["layers"], strict=True)}
    restricted = [name for name in sorted(layers, key=family_order) if layers[name] != ALL_LAYERS]
    if not restricted:
        return ["all layers"] if always else []
    return [f"{name} on layer{'' if layers[name].isdigit() else 's'} {layers[name]} only" for name in restricted]


def _refuse_mixtures(part: pd.DataFrame) -> None:
    keys: Sequence[str] = ("task", "task_version", "basis", "method")
    cells = part.drop_duplicates("cell_id")
    repeated = cells[cells.duplicated(list(keys))]
    if len(repeated):
        first = repeated.iloc[0]
        raise RecordError(
            f"two cells for task {first['task']}, basis {first['basis']}, method {first['method']} differ only in "
            "their data; read the results folders one at a time"
        )
