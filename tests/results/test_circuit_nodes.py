"""Nodes of records: merged by role, and written as tables and CSV that no spreadsheet runs."""

from __future__ import annotations

import csv
import io

import pytest

from basisbench.results.circuit_nodes import (
    CircuitNode,
    merged_top_nodes,
    node_table,
    nodes_csv,
    of_record,
    role_tokens,
    token_of,
)
from basisbench.results.record_fields import TopNode
from basisbench.results.tables import plain_text
from helpers.synthetic_records import synthetic_record

ROLES = ("bos", "opening", "opening", "subject", "verb")


def test_both_ways_to_a_token_of_a_role_agree() -> None:
    assert role_tokens(ROLES) == [("bos", ""), ("opening", "1/2"), ("opening", "2/2"), ("subject", ""), ("verb", "")]
    assert [token_of("night:2,1,1", position, 5) for position in range(5)] == ["", "1/2", "2/2", "", ""]


def top(group: str, position: int | None, role: str | None, score: float, unit: int = 4) -> TopNode:
    return TopNode(group=group, layer=1, position=position, role=role, unit=unit, score=score)


def test_a_unit_in_the_same_token_of_a_role_is_one_node() -> None:
    nodes = [
        top("a:2,1,1", 3, "subject", -2.0), top("b:1,1,1", 2, "subject", -1.0), top("a:2,1,1", 1, "opening", 0.25),
        top("b:1,1,1", 1, "opening", 0.5), top("a:2,1,1", 3, "subject", 3.0, unit=5), top("a:2,1,1", None, None, 0.1),
    ]  # fmt: skip
    merged = merged_top_nodes(nodes, {"a:2,1,1": 5, "b:1,1,1": 4})
    assert [(node.unit, node.role, node.token, node.groups, node.score) for node in merged] == [
        (5, "subject", "", 1, 3.0), (4, "subject", "", 2, -1.5), (4, "opening", "", 1, 0.5),
        (4, "opening", "1/2", 1, 0.25), (4, "all", "", 1, 0.1),
    ]  # fmt: skip


def test_tables_and_csv_of_a_record() -> None:
    record = synthetic_record("ioi", "mlp_act", "relp", examples=6)
    found = of_record(record)
    assert sum(node.groups for node in found.nodes) == len(record.top_nodes)
    text = plain_text(node_table(found))
    assert text.splitlines()[0].endswith("best nodes of mlp_act under relp; scores in logits")
    assert "direct" not in text
    worst = CircuitNode(
        layer=0, unit="error", coordinate=3, role="verb", groups=1, score=-0.001, clean=2.0, counterfactual=1.0,
        change=1.0, direct=-0.0001, raised=("=HYPERLINK(1)", " b"), lowered=(" c",), address="https://example.org/3",
    )  # fmt: skip
    described = found.model_copy(update={"nodes": (worst,), "draws": 2})
    table = plain_text(node_table(described))
    assert "error 3" in table
    assert "-0.00" not in table
    assert table.endswith("error 3 of layer 0: https://example.org/3")
    (row,) = csv.DictReader(io.StringIO(nodes_csv([described])))
    assert row["raised"] == "'=HYPERLINK(1) |  b"
    assert (row["task"], row["unit"], row["coordinate"], row["score"]) == ("ioi", "error", "3", "-0.001")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_node_has_no_number_that_is_none(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        CircuitNode(layer=0, unit=1, coordinate=None, role="verb", groups=1, score=value)
