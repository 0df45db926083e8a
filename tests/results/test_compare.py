"""Tables: who is marked best, and how values are written."""

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
from basisbench.results.controls import control_of
from basisbench.results.display import Display
from basisbench.results.frame import summarise
from basisbench.results.headlines import HEADLINES, headline_tables
from basisbench.results.medians import median_table
from basisbench.results.metrics import METRICS, nodes_to
from basisbench.results.record import Record
from basisbench.results.tables import Entry, Table, plain_text
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


# --- what tables say ---


def test_where_every_task_is_below_a_gate_values_and_advice_stand_in_place_of_medians() -> None:
    summary = summarise([synthetic_record(gap=0.3, layers=(2,)), synthetic_record("sva_rc", gap=0.3, layers=(2,))])
    for text in (render_text(summary), render_markdown(summary)):
        assert "No medians: every task is below a gate." in text
        assert "0/0" not in text
        assert "Gap within its errors: take more pairs (--examples), more layers, or another task." in text
        assert re.search(r"ioi +100 +1 +0\.46 +0\.18 \(228%", text.replace("|", " "))
    assert "Gap within its errors" not in render_text(summarise([synthetic_record()]))


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


@pytest.mark.slow
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


# --- controls ---


def test_bases_stand_beside_their_controls() -> None:
    records = [synthetic_record("ioi", "transcoder", examples=12)]
    worse = synthetic_record("ioi", "mlp_act_rotated", name="permuted:transcoder", examples=12)
    records.append(changed(worse, record={"control": True}))
    records.append(synthetic_record("ioi", "mlp_out", name="permuted:mlp_act", examples=12))  # no control by itself
    assert control_of("random:transcoder (1c9235d3)", control=True) == "transcoder"
    assert control_of("sae:mine/sae", control=False) == ""
    text = render_text(summarise(records))
    (line,) = [line for line in text[text.index("Beside controls") :].splitlines() if line.startswith("ioi")]
    rows = summarise(records).set_index("basis")
    basis, control = (rows.loc[name, "nodes_to_80"] for name in ("transcoder", "permuted:transcoder"))
    assert line.split()[:3] == ["ioi", "transcoder", "permuted:transcoder"]
    assert [float(each) for each in line.split()[3:6]] == pytest.approx([basis, control, basis / control], rel=0.1)
    assert "Beside controls" in render_markdown(summarise(records))
    assert "Beside controls" not in render_text(summarise(records[:1]))
