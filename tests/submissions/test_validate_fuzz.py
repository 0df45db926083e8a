"""Thousands of mutated records: each is accepted rightly, or refused in a line that names the field at fault.

What must become of a mutation is said by `mutations` and its helpers, which know the definitions and not the checks.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from basisbench.errors import RecordError
from basisbench.results.record import Record, cell_id, parse_record
from basisbench.submissions.validate import validate
from helpers.mutated_files import ACCEPT, ANY, Mutation, leaves
from helpers.mutations import KINDS
from helpers.rich_records import rich_record

BASES = (
    rich_record(),
    rich_record("transcoder", kl=False, error_policy="node"),
    rich_record("sae_mlp_out", granularity="unit"),
    rich_record("mlp_act", error_policy="ablate", ablation="zero"),
    rich_record("mlp_out", granularity="unit", kl=False, error_policy="keep", layers=(0, 2, 3, 5)),
    rich_record("sae_mlp_out", error_policy="rotated", layers=(1, 2, 3, 4)),
)


def contents() -> list[Any]:
    return [json.loads(record.model_dump_json()) for record in BASES]


def names(line: str, place: str) -> bool:
    """Tell whether a message names a field: its whole path, its last key and index, or what holds it and its key."""
    line, place = line.lower(), place.lower()
    if place in line or re.sub(r"\d+", "", place) in line:
        return True
    if place.count("[") == 1 and re.sub(r"\[\d+\]$", "", place) in line:  # a sum or a share of a whole row
        return True
    steps = re.findall(r"[^.\[\]]+", re.sub(r"\[\d+\]", "", place))
    index = re.findall(r"\[\d+\]", place)
    key_named = re.search(rf"\b{re.escape(steps[-1])}\b", line) is not None
    return key_named and (not index or index[-1] in line or line.startswith(f"{steps[0]}: ") or "values, but" in line)


def test_the_records_that_are_mutated_are_good(tmp_path: Path) -> None:
    for record in BASES:
        path = tmp_path / f"{record.id}.json"
        path.write_text(record.model_dump_json(), encoding="utf-8")
        assert validate([path]).problems == {}
    assert sum(count for _, count in KINDS.values()) >= 4_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_records(kind: str, tmp_path: Path, record_property: Any) -> None:
    mutate, count = KINDS[kind]
    random = Random(f"mutations of {kind}")
    originals = contents()
    accepted = refused = 0
    for number in range(count):
        which = number % len(BASES)
        mutation = mutate(originals[which], random)
        path = tmp_path / f"{BASES[which].id}.json"
        path.write_bytes(mutation.data)
        report = validate([path])
        if report.problems:
            refused += 1
            (line,) = report.lines()
            check_refusal(mutation, line.removeprefix(f"{path}: "), f"{kind} {number}")
        else:
            accepted += 1
            check_acceptance(mutation, BASES[which], f"{kind} {number}")
    record_property("accepted", accepted)
    record_property("refused", refused)
    print(f"{kind}: {accepted} accepted, {refused} refused")
    assert accepted + refused == count


def check_refusal(mutation: Mutation, line: str, label: str) -> None:
    """A refusal is one bearable line, and names the field at fault."""
    assert line.isprintable(), label
    assert len(line) < 1500, label
    assert mutation.verdict != ACCEPT, f"{label}: refused: {line}"
    if mutation.verdict == ANY or (mutation.by_name and line.startswith("expected the name ")):
        return
    assert names(line, mutation.verdict), f"{label}: {mutation.verdict} is not named: {line}"


def check_acceptance(mutation: Mutation, base: Record, label: str) -> None:
    """What is accepted is what it was, or what the mutation made of it and the definitions allow."""
    record = parse_record(mutation.data)
    assert record.id == base.id, label
    if mutation.verdict == ACCEPT:
        expected = base if mutation.content is None else Record.model_validate_json(json.dumps(mutation.content))
        assert record == expected, label
        return
    assert mutation.verdict == ANY, f"{label}: accepted, but {mutation.verdict} is at fault"
    assert_free(record, base, label)


def assert_free(record: Record, base: Record, label: str) -> None:
    """Broken bytes that can still be read changed nothing that an id, a definition or another number fixes."""
    changed, before = (json.loads(item.model_dump_json()) for item in (record, base))
    for part in ("cell", "identities", "basisbench", "counts"):
        assert changed[part] == before[part], label
    for name in ("sizes", "feature_nodes", "error_nodes"):
        assert changed["curve"][name] == pytest.approx(before["curve"][name], rel=1e-3, abs=1e-3), label
    # How many distinct units a circuit has is fixed at both ends alone; between them only a re-run can tell.
    units, were = changed["curve"]["units"], before["curve"]["units"]
    assert (units[0], units[-1]) == pytest.approx((were[0], were[-1]), rel=1e-3, abs=1e-3), label
    assert units == sorted(units), label
    for name in ("full", "empty"):
        assert changed["endpoints"][name] == pytest.approx(before["endpoints"][name], rel=2e-3, abs=2e-3), label
    assert changed["curve"]["circuit"][-1] == pytest.approx(before["curve"]["circuit"][-1], rel=2e-3, abs=2e-3), label
    for path in leaves(changed):
        value: Any = changed
        for step in path:
            value = value[step]
        if isinstance(value, str):
            assert value.isprintable(), label


def test_an_id_follows_what_a_record_says() -> None:
    for record in BASES:
        assert cell_id(record.cell, record.identities, version=record.basisbench) == record.id


def test_a_refusal_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / f"{BASES[0].id}.json"
    path.write_bytes(b"{")
    (line,) = validate([path]).lines()
    assert line.endswith("restore the file or run the cell again")
    with pytest.raises(RecordError):
        parse_record(b"{")
