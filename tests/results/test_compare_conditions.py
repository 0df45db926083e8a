"""What stands beside what in tables: settings, error policies and layers that are never mixed."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from basisbench.errors import RecordError
from basisbench.registry import built_in
from basisbench.results.compare import (
    compare_table,
    render_markdown,
    render_text,
)
from basisbench.results.conditions import join_policies, layers_text, split_conditions
from basisbench.results.frame import frame_of, summarise
from basisbench.types import ErrorPolicy
from helpers.synthetic_records import changed, synthetic_record

DISPLAY = built_in().display()


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"ablation": "zero"},
        {"granularity": "unit"},
        {"seed": 1},
        {"task_version": "2"},
        {"model": "other"},
    ],
)
def test_cells_that_differ_in_their_setting_never_meet(change: dict[str, str]) -> None:
    one = synthetic_record(basis="mlp_act")
    other = synthetic_record(basis="mlp_out", **change)  # type: ignore[arg-type]
    table = compare_table(summarise([one, other]))
    assert not table["nodes_to_80_best"].any()
    text = render_text(summarise([one, other]))
    if "task_version" in change:
        assert "ioi v1" in text
        assert "ioi v2" in text
    else:
        titles = [title for title, _ in split_conditions(table)]
        assert len(set(titles)) == 2
        assert all(title in text for title in titles)


def test_settings_that_look_alike_get_full_titles() -> None:
    records = [synthetic_record(), synthetic_record()]
    records[1] = records[1].model_copy(update={"basisbench": "9.9.9"})
    titles = [title for title, _ in split_conditions(summarise(records))]
    assert len(set(titles)) == 2
    assert any("9.9.9" in title for title in titles)


def test_larger_models_come_first() -> None:
    """Whatever they are called."""
    small = summarise([synthetic_record(model="a-small-one")])
    large = summarise([synthetic_record(model="the-larger-one")])
    large["total_nodes"] = 2 * small["total_nodes"].max()
    parts = split_conditions(pd.concat([small, large], ignore_index=True))
    assert [part["model"].unique().tolist() for _, part in parts] == [["the-larger-one"], ["a-small-one"]]


# --- error policies ---


def test_neurons_stand_beside_dictionaries_under_each_of_their_policies() -> None:
    records = [synthetic_record(basis="mlp_act", error_policy="coordinates")]
    policies: tuple[ErrorPolicy, ...] = ("node", "coordinates", "ablate")
    records += [synthetic_record(basis="transcoder", error_policy=policy) for policy in policies]
    summary = summarise(records)
    parts = split_conditions(summary)
    assert [part["error_policy"].unique().tolist() for _, part in parts] == [["coordinates"], ["node"], ["ablate"]]
    assert all(sorted(part["basis"]) == ["mlp_act", "transcoder"] for _, part in parts)
    assert {part.set_index("basis").loc["mlp_act", "cell_id"] for _, part in parts} == {records[0].id}
    table = compare_table(summary)
    assert len(table) == 6
    pd.testing.assert_frame_equal(join_policies(table).reset_index(drop=True), table), "nothing more to join"
    # Curves likewise: every size of the neurons once in each part.
    frame = frame_of(records)
    assert [len(part[part["basis"] == "mlp_act"]) for _, part in split_conditions(frame)] == [
        len(records[0].curve.sizes)
    ] * 3


def test_cells_of_neurons_under_several_policies_count_once_in_each() -> None:
    policies: tuple[ErrorPolicy, ...] = ("coordinates", "node")
    records = [synthetic_record(basis=basis, error_policy=p) for basis in ("mlp_act", "transcoder") for p in policies]
    table = compare_table(summarise(records))
    assert len(table) == 4
    assert set(table["cell_id"]) == {record.id for record in records}


def test_neurons_are_in_no_part_where_nothing_stands_beside_them() -> None:
    """A policy that dictionaries have under one method only brings no rows of the other methods with it."""
    records = [synthetic_record(basis="mlp_act", method=m, error_policy="coordinates") for m in ("relp", "ig")]
    records += [synthetic_record(basis="transcoder", method=m, error_policy="coordinates") for m in ("relp", "ig")]
    records += [synthetic_record(basis="transcoder", method="relp", error_policy="node")]
    parts = dict(split_conditions(summarise(records)))
    assert [sorted(set(part["method"])) for part in parts.values()] == [["ig", "relp"], ["relp"]]
    alone = [synthetic_record(basis="mlp_act", error_policy="ablate"), synthetic_record(basis="mlp_out")]
    ((_, part),) = split_conditions(summarise(alone))
    assert sorted(part["basis"]) == ["mlp_act", "mlp_out"], "without errors all policies are one"


@pytest.mark.slow
def test_nodes_under_the_error_policy_node_stand_beside() -> None:
    records = [synthetic_record(basis=b, error_policy="coordinates") for b in ("mlp_act", "transcoder", "sae_mlp_out")]
    node = synthetic_record(basis="transcoder", error_policy="node")
    table = compare_table(summarise([*records, node]))
    main = table[table["error_policy"] == "coordinates"].set_index("basis")
    expected = summarise([node]).iloc[0]
    for end in ("", "_low", "_high"):
        assert main.loc["transcoder", f"nodes_to_80_node{end}"] == expected[f"nodes_to_80{end}"]
        assert main.loc["mlp_act", f"nodes_to_80_node{end}"] == main.loc["mlp_act", f"nodes_to_80{end}"]
        assert math.isnan(main.loc["sae_mlp_out", f"nodes_to_80_node{end}"])
    text = render_text(summarise([*records, node]))
    (line,) = [line for line in text.splitlines() if "transcoder" in line and "[" in line and "ioi" not in line][1:2]
    assert f"{expected['nodes_to_80']:.0f}" in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"score_reference": "counterfactual"}, "scores for the counterfactual value"),
        ({"score_split": "evaluation"}, "held in: scores on the evaluation pairs"),
        ({"bos": "never"}, "bos never"),
        ({"metric": "logprob"}, "metric logprob"),
        ({"ties": "order"}, "ties by order"),
        ({"attribution_draw": 2}, "attribution draw 2"),
    ],
)
def test_other_conditions_of_scores_have_parts_of_their_own(change: dict[str, object], words: str) -> None:
    records = [synthetic_record(basis=basis) for basis in ("mlp_act", "transcoder")]
    records += [changed(record, cell=change) for record in records]
    (usual, main), (title, part) = split_conditions(summarise(records))
    assert words in title
    assert words not in usual
    assert len(main) == len(part) == 2
    table = compare_table(summarise(records))
    assert table[table["basis"] == "transcoder"]["area_faithfulness_best"].nunique() == 1


# --- layers ---


@pytest.mark.slow
def test_one_family_on_some_layers_leaves_one_comparison() -> None:
    records = [synthetic_record(basis=basis) for basis in ("mlp_act", "transcoder")]
    records += [synthetic_record(basis=basis, layers=(0, 1, 2, 7)) for basis in ("resid", "sae_resid")]
    summary = summarise(records)
    assert dict(zip(summary["basis"], summary["layers"], strict=True)) == {
        "mlp_act": "all",
        "transcoder": "all",
        "resid": "0-2, 7",
        "sae_resid": "0-2, 7",
    }
    ((title, part),) = split_conditions(summary)
    assert title.endswith("resid on layers 0-2, 7 only")
    assert len(part) == 4
    text = render_text(summary)
    assert text.count("Nodes to 80%") == 1
    assert title in text
    best = compare_table(summary).set_index("basis")["area_faithfulness_best"]
    assert best[["mlp_act", "transcoder"]].sum() == best[["resid", "sae_resid"]].sum() == 1
    # A picture of the other family has nothing to say of layers.
    assert "layers" not in split_conditions(summary[summary["family"] == "mlp"])[0][0]


@pytest.mark.slow
def test_all_layers_and_some_are_never_put_side_by_side() -> None:
    records = [synthetic_record(basis=basis) for basis in ("resid", "sae_resid", "mlp_act")]
    records += [synthetic_record(basis=basis, layers=(2, 3)) for basis in ("resid", "sae_resid")]
    records += [synthetic_record(basis="resid", layers=(10,))]
    summary = summarise(records)
    parts = split_conditions(summary)
    assert [title.split("examples, ")[1] for title, _ in parts] == [
        "all layers",
        "resid on layers 2-3 only",
        "resid on layer 10 only",
    ]
    assert [list(part["basis"]) for _, part in parts] == [
        ["resid", "sae_resid", "mlp_act"],
        ["resid", "sae_resid"],
        ["resid"],
    ]
    marks = compare_table(summary).groupby("layers")["nodes_to_80_best"].sum()
    assert marks.to_dict() == {"all": 1, "2-3": 1, "10": 0}
    markdown = render_markdown(summary)
    assert all(f"## {title}\n" in markdown for title, _ in parts)


def test_restrictions_of_two_families_split_together() -> None:
    records = [synthetic_record(basis=b, layers=layers) for b in ("mlp_act", "resid") for layers in (None, (0, 1))]
    titles = [title for title, _ in split_conditions(summarise(records))]
    assert titles[1].endswith("mlp on layers 0-1 only, resid on layers 0-1 only")
    assert len(titles) == 2


@pytest.mark.parametrize(
    ("layers", "text"),
    [(None, "all"), ((3,), "3"), ((0, 1, 2, 3, 7), "0-3, 7"), ((5, 4, 9), "4-5, 9"), ((2, 2, 0), "0, 2")],
)
def test_layers_are_written_as_runs(layers: tuple[int, ...] | None, text: str) -> None:
    assert layers_text(layers) == text


def test_cells_that_differ_only_in_their_data_are_refused() -> None:
    record = synthetic_record()
    identities = record.identities.model_copy(update={"data": "f" * 64})
    with pytest.raises(RecordError, match="differ only in their data"):
        render_text(summarise([record, record.model_copy(update={"identities": identities})]))
