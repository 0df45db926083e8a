"""What dictionaries leave out, in one table: fit, share of attribution in errors, ceiling, nodes to 80%."""

from __future__ import annotations

import math

import pytest

from basisbench.results.compare import compare_table, render_markdown, render_text
from basisbench.results.frame import summarise
from basisbench.results.record import Record
from basisbench.types import ErrorPolicy
from helpers.synthetic_records import changed, synthetic_record

TITLE = "What dictionaries leave out under relp, errors in coordinates"


def cell(basis: str, share: float | None = None, policy: ErrorPolicy = "coordinates", ceiling: float = 1.0) -> Record:
    record = synthetic_record("ioi", basis, examples=12, error_policy=policy, ceiling=ceiling)
    return changed(record, record={"error_share": share})


def lines_of(records: list[Record]) -> list[list[str]]:
    """Return the words of the table's lines below its title, none where there is no table."""
    _, _, after = render_text(summarise(records)).partition(TITLE)
    return [line.split() for line in after.split("\n\n")[0].splitlines()[1:]]


@pytest.mark.slow
def test_share_and_ceiling_stand_beside_the_fit() -> None:
    """The ceiling is the last size of the same cell with errors ablated; what was not measured is a dash."""
    ablated = cell("transcoder", policy="ablate", ceiling=0.83)
    records = [cell("mlp_act"), cell("transcoder", 0.3139), ablated, cell("sae_mlp_out", 1.0)]
    table = compare_table(summarise(records))
    row = table[(table["basis"] == "transcoder") & (table["error_policy"] == "coordinates")].iloc[0]
    full, empty = (sum(values) / 12 for values in (ablated.endpoints.full, ablated.endpoints.empty))
    assert row["ceiling"] == pytest.approx((sum(ablated.curve.circuit[-1]) / 12 - empty) / (full - empty), abs=1e-4)
    assert 0.8 < row["ceiling"] < 0.83
    assert (row["error_share"], row["faithfulness_all"]) == (0.3139, pytest.approx(1))
    exact = table[table["basis"] == "mlp_act"]
    assert exact["ceiling"].isna().all()
    assert exact["error_share"].isna().all()
    assert list(table.loc[table["basis"] == "sae_mlp_out", "ceiling"].isna()) == [True]

    *_, transcoder, sae = lines_of(records)
    assert sae == ["sae_mlp_out", "0.04", "0.05", "1.00", "-", f"{own_nodes(records[3]):.0f}"]
    assert transcoder == [
        "ioi",
        "transcoder",
        "0.04",
        "0.05",
        "0.31",
        f"{row['ceiling']:.2f}",
        f"{own_nodes(records[1]):.0f}",
    ]
    assert render_markdown(summarise(records)).count(TITLE) == 1, "and not where errors are ablated"


def own_nodes(record: Record) -> float:
    value = float(summarise([record])["nodes_to_80"].iloc[0])
    assert math.isfinite(value)
    return value


@pytest.mark.slow
def test_records_from_before_have_a_dash_and_a_table_only_where_there_is_a_ceiling() -> None:
    assert lines_of([cell("mlp_act"), cell("transcoder")]) == []
    assert lines_of([cell("mlp_act")]) == []
    (line,) = [line for line in lines_of([cell("transcoder"), cell("transcoder", policy="ablate")]) if "ioi" in line]
    assert line[4:6] == ["-", "1.00"]
