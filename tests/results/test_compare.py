"""Tables: who is marked best, what is never mixed, and how censored values are written."""

from __future__ import annotations

import math
import re
from io import StringIO

import numpy as np
import pandas as pd
import pytest

from basisbench.errors import BasisBenchError, RecordError
from basisbench.registry import built_in
from basisbench.results.columns import normalised
from basisbench.results.compare import (
    compare_table,
    csv_text,
    paired_difference,
    render_markdown,
    render_text,
    select,
)
from basisbench.results.conditions import join_policies, layers_text, split_conditions
from basisbench.results.display import Display
from basisbench.results.frame import frame_of, summarise
from basisbench.results.headlines import HEADLINES, headline_tables
from basisbench.results.medians import median_table
from basisbench.results.metrics import METRICS, nodes_to
from basisbench.results.record import Record
from basisbench.results.tables import Entry, Table, plain_text
from basisbench.types import ErrorPolicy
from helpers.synthetic_records import changed, synthetic_record, synthetic_suite

DISPLAY = built_in().display()


@pytest.fixture(scope="module")
def full() -> pd.DataFrame:
    return summarise(list(synthetic_suite(examples=24)))


def test_nothing_is_best_without_a_rival() -> None:
    table = compare_table(summarise([synthetic_record()]))
    assert not table[[f"{name}_best" for name in METRICS]].to_numpy().any()


def test_bases_and_methods_stand_in_the_order_that_they_declare() -> None:
    cells = [("sae_mlp_out", "ig"), ("mlp_out", "ig"), ("mlp_act", "relp"), ("mlp_act", "ig"), ("aaa", "relp")]
    records = [
        synthetic_record(basis="transcoder" if basis == "aaa" else basis, method=method, name=basis)
        for basis, method in cells
    ]
    summary = summarise(records)
    (table,) = headline_tables(median_table(summary), DISPLAY, ("nodes_to_80",), intervals=False)
    assert table.header == ("family", "basis", "relp", "ig")
    assert [row[1].text for row in table.rows] == ["mlp_act", "mlp_out", "aaa", "sae_mlp_out"]
    assert "Each task under relp" in render_text(summary, DISPLAY)
    written = pd.read_csv(StringIO(csv_text(summary, DISPLAY)))
    assert list(zip(written["basis"], written["method"], strict=True)) == [
        *(("mlp_act", "relp"), ("mlp_act", "ig"), ("mlp_out", "ig"), ("aaa", "relp"), ("sae_mlp_out", "ig")),
    ]
    (by_name,) = headline_tables(median_table(summary), Display(), ("nodes_to_80",), intervals=False)
    assert by_name.header == ("family", "basis", "ig", "relp")
    attention = ["attn_out", "attn_z", "another", "sae_attn_out (aaaaaaaa)", "attn_out (bbbbbbbb)"]
    assert sorted(attention, key=DISPLAY.basis_order)[:3] == ["attn_z", "attn_out", "attn_out (bbbbbbbb)"]


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


# --- what tables say ---


def test_tables_say_what_there_is_to_explain_and_how_well_dictionaries_fit() -> None:
    records = [synthetic_record(basis=basis) for basis in ("mlp_act", "transcoder")]
    records.append(changed(synthetic_record(basis="sae_mlp_out"), guard={"fvu": (0.1, 1.07, 0.1, 0.1)}))
    records += [synthetic_record("sva_rc", basis, gap=0.3) for basis in ("mlp_act", "transcoder")]
    summary = summarise(records)
    for text in (render_text(summary), render_markdown(summary)):
        assert re.search(r"ioi[ |]+100[ |]+1[ |]+1\.00[ |]+\d+\.\d\d \(\d+%\)", text)
        assert summary.loc[summary["task"] == "sva_rc", "gate"].iloc[0] in text
        assert "sae_mlp_out (mlp): FVU 1.07 in a layer, ioi" in text
        assert "0.97" in text, "loss recovered"
        assert "per aligned group" in text
    line = next(
        line for line in render_text(summary).splitlines() if re.search(r"^ +transcoder .*0\.05 +26 +0\.97", line)
    )
    units = summary.set_index(["task", "basis"]).loc[("ioi", "transcoder"), "units_to_80"]
    assert f" {units:.0f} " in line


def test_a_target_beyond_the_scored_nodes_is_written_so() -> None:
    record = synthetic_record()
    group = record.groups[0].model_copy(update={"scored_nodes": 7})
    summary = summarise([record.model_copy(update={"groups": (group,)})])
    for text in (render_text(summary), render_markdown(summary)):
        assert re.search(r">7 scored", text)
        assert "inf" not in text


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


@pytest.mark.slow
def test_the_terminal_s_summary_fits_a_screen(full: pd.DataFrame) -> None:
    lines = render_text(full, DISPLAY).splitlines()
    assert len(lines) <= 130
    assert max(map(len, lines)) <= 120
    text = "\n".join(lines)
    for name in (*full["task"].unique(), *full["basis"].unique(), *full["method"].unique()):
        assert name in text
    assert "Each task under relp" in text
    assert "pocket-llama, mean ablation, error policy coordinates, granularity position, seed 0, n = 24" in lines[0]


@pytest.mark.slow
def test_another_method_can_be_shown_in_detail(full: pd.DataFrame) -> None:
    assert "Each task under ig" in render_text(full, DISPLAY, method="ig")


@pytest.mark.slow
def test_medians_are_over_tasks(full: pd.DataFrame) -> None:
    (nodes,) = headline_tables(median_table(full), DISPLAY, ("nodes_to_80",), intervals=False)
    assert nodes.header == ("family", "basis", "relp", "ig", "ixg", "magnitude", "random")
    row = next(row for row in nodes.rows if row[1].text == "mlp_act")
    own = full[(full["basis"] == "mlp_act") & (full["method"] == "relp")]["nodes_to_80"]
    assert row[2].text == f"{np.median(own):.0f}"
    (table,) = headline_tables(median_table(full), DISPLAY, ("nodes_to_80",), intervals=True)
    row = next(row for row in table.rows if row[1].text == "mlp_act")
    assert re.fullmatch(rf"{np.median(own):.0f} \[\d+, \d+\]", row[2].text)
    # Raw neurons come first.
    assert [row[1].text for row in nodes.rows][:2] == ["mlp_act", "mlp_out"]
    assert [row[0].text for row in nodes.rows] == sorted(
        (row[0].text for row in nodes.rows), key=["mlp", "attn", "resid"].index
    )


@pytest.mark.slow
def test_unreached_targets_are_written_as_more_than_all_nodes() -> None:
    record = synthetic_record(basis="mlp_out", ceiling=0.5)
    total = record.curve.sizes[-1]
    text = render_text(summarise([record]))
    assert f">{total}" in text
    assert "inf" not in text
    markdown = render_markdown(summarise([record]))
    assert f">{total}" in markdown


def test_an_interval_may_end_in_more_than_all_nodes() -> None:
    records = [synthetic_record(task, "mlp_out", ceiling=0.81) for task in ("ioi", "sva_rc", "sva_simple")]
    assert re.search(r"\d+ \[\d+, >\d+\]", render_text(summarise(records)))


def test_partly_reached_medians_say_in_how_many_tasks() -> None:
    records = [
        synthetic_record(task, "mlp_act", ceiling=ceiling)
        for task, ceiling in (("ioi", 1.0), ("sva_rc", 1.0), ("user_age", 0.5))
    ]
    assert "(2/3)" in render_text(summarise(records))


def test_degenerate_cells_are_not_applicable() -> None:
    record = synthetic_record()
    text = render_text(summarise([changed(record, endpoints={"empty": record.endpoints.full})]))
    assert "n/a" in text
    assert "nan" not in text


@pytest.mark.slow
def test_markdown_tables_are_well_formed(full: pd.DataFrame) -> None:
    text = render_markdown(full, DISPLAY)
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == len(HEADLINES) + 1 + 9 * 3
    for block in blocks:
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in block}
        assert len(bars) == 1
    assert text.count("**") % 2 == 0
    for metric in METRICS.values():
        assert metric.meaning in text


def test_csv_keeps_infinity_and_marks() -> None:
    summary = summarise([synthetic_record(ceiling=0.5), synthetic_record(basis="mlp_out")])
    again = pd.read_csv(StringIO(csv_text(summary)))
    assert list(again["nodes_to_80"]) == pytest.approx(list(summary["nodes_to_80"]), rel=1e-5)
    assert math.isinf(again["nodes_to_80"].iloc[0])
    assert list(again["nodes_to_80_best"]) == [False, True]


# --- long names ---


@pytest.mark.slow
def test_long_names_are_short_in_tables_and_full_below_and_in_the_csv() -> None:
    names = [f"sae:gemma-scope-2-270m-pt-res-all:layer_*_width_{width}_l0_small" for width in ("16k", "262k")]
    summary = summarise(
        [synthetic_record(basis="sae_resid", name=name) for name in names] + [synthetic_record(basis="resid")]
    )
    for text in (render_text(summary), render_markdown(summary)):
        tables, below = text.split("Short names of bases")
        assert "sae:16k" in tables
        assert "sae:262k" in tables
        for label, name in zip(("sae:16k", "sae:262k"), names, strict=True):
            assert name not in tables
            assert f"{label} = {name}" in below
    assert "Short names" not in render_text(summarise([synthetic_record()]))
    assert set(pd.read_csv(StringIO(csv_text(summary)))["basis"]) == {"resid", *names}


# --- paired differences of records ---


def test_a_paired_difference_of_records() -> None:
    a, b = synthetic_record(basis="mlp_out"), synthetic_record(basis="transcoder")
    number = paired_difference(a, b, "nodes_to_80")
    values = [nodes_to(cell.sizes, cell.faithfulness, 0.8)[0] for cell in (normalised(a), normalised(b))]
    assert number.value == pytest.approx(values[0] - values[1])
    assert 0 < number.low < number.value < number.high
    opposite = paired_difference(b, a, "nodes_to_80")
    assert (opposite.low, opposite.high) == pytest.approx((-number.high, -number.low))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (synthetic_record(task="sva_rc"), "data"),
        (synthetic_record(model="other"), "model"),
        (synthetic_record(layers=(0, 1)), "layers"),
        (synthetic_record(gap=5.0), r"F\(M\)"),
        (changed(synthetic_record(), record={"clusters": {"noun": tuple(range(100))}}), "clusters"),
    ],
)
def test_records_of_different_examples_cannot_be_paired(other: Record, reason: str) -> None:
    with pytest.raises(RecordError, match=f"{reason}.* differs"):
        paired_difference(synthetic_record(), other, "nodes_to_80")


def test_an_unknown_statistic_is_told() -> None:
    with pytest.raises(RecordError, match=r"no statistic named 'nodes'.*nodes_to_80"):
        paired_difference(synthetic_record(), synthetic_record(), "nodes")


# --- terminals and spreadsheets ---


def test_nothing_is_wider_than_the_terminal_and_nothing_is_lost() -> None:
    records = [
        synthetic_record(task, basis, examples=6) for task in ("ioi", "sva_rc") for basis in ("resid", "mlp_out")
    ]
    summary = summarise([*records, synthetic_record("ioi", name="x" * 40, examples=6, ceiling=0.5)])
    whole = render_text(summary)
    for width in (72, 100, 400):
        narrow = render_text(summary, width=width)
        assert max(map(len, narrow.splitlines())) <= width
        assert set(whole.split()) == set(narrow.split())


def test_a_long_text_of_a_table_takes_several_lines() -> None:
    table = Table("title", ("task", "n", "why"), ((Entry("ioi"), Entry("1"), Entry("one two three " * 4)),))
    lines = plain_text(table, 30).splitlines()
    assert max(map(len, lines)) <= 30
    assert " ".join(lines).count("three") == 4


def test_csv_texts_that_a_spreadsheet_would_run_have_a_quote_in_front() -> None:
    names = ("=1+1", "+a", "-b", "@sum", "plain")
    summary = summarise([synthetic_record(name=name, examples=6, gap=-6.0) for name in names])
    again = pd.read_csv(StringIO(csv_text(summary)))
    assert set(again["basis"]) == {f"'{name}" for name in names[:-1]} | {"plain"}
    assert again["gap"].dtype == float
    assert (again["gap"] < 0).all(), "numbers stay numbers"


def test_tasks_and_methods_can_be_selected() -> None:
    summary = summarise(
        [synthetic_record(t, "resid", m, examples=6) for t in ("ioi", "sva_rc") for m in ("relp", "ig")]
    )
    one = select(summary, ["ioi"], ["ig"])
    assert one[["task", "method", "suite_tasks"]].to_numpy().tolist() == [["ioi", "ig", "ioi"]]
    assert "Nodes to 80% faithfulness, task ioi" in render_text(one)
    assert len(select(summary, [], [])) == len(summary)
    with pytest.raises(BasisBenchError, match="no task of these results named 'ioy'; did you mean ioi"):
        select(summary, ["ioy"], [])
