"""The data check of `show`: what is said of pairs, and in which colour."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from basisbench.errors import TaskError
from basisbench.pairs.alignment import load_splits
from basisbench.pairs.lexicon import word_lists
from basisbench.pairs.task_file import load_task_file
from basisbench.runs.data_check import Finding, check_model, check_pairs, verdict
from basisbench_baselines.pocket.corpus.stream import build_tokenizer

NOUNS = word_lists("attribution").nouns
ROWS = [
    {"clean": f"The {noun.singular}", "corrupted": f"The {noun.plural}", "answer": " is", "foil": " are"}
    for noun in NOUNS
]


def found(folder: Path, rows: list[dict[str, str]], asked: int) -> dict[str, Finding]:
    task = load_task_file(_written(folder, rows))
    splits = load_splits(task, build_tokenizer(), attribution=asked, evaluation=asked, seed=0)
    return {finding.what: finding for finding in check_pairs(task, splits, asked)}


def _written(folder: Path, rows: list[dict[str, str]]) -> Path:
    path = folder / "pairs.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_good_pairs_are_green(tmp_path: Path) -> None:
    checked = found(tmp_path, ROWS, 10)
    assert {finding.colour for finding in checked.values()} == {"green"}
    assert checked["attribution pairs"].found == "10 of 10 asked for, 1 aligned group(s) of 10 to 10"
    assert verdict(list(checked.values())) == "green"


def test_what_limits_a_run_is_yellow_with_its_numbers(tmp_path: Path) -> None:
    wrong = [row | {"answer": " is not"} for row in ROWS]
    more = [row | {"clean": f"{row['clean']} is", "corrupted": f"{row['corrupted']} is"} for row in wrong]
    checked = found(tmp_path, [*ROWS, *ROWS, *more, *wrong], 10_000)
    kept = len(ROWS) // 2
    assert checked["evaluation pairs"].colour == "yellow"
    assert checked["evaluation pairs"].found.startswith(f"{kept}; a run has these alone, 10000 are asked for")
    assert checked["evaluation dropped"].colour == "yellow"
    assert "an answer or foil is not a single token" in checked["evaluation dropped"].found
    assert checked["duplicates"].found.startswith(f"{len(ROWS)} pairs given twice, ")
    assert verdict(list(checked.values())) == "yellow"


def test_too_few_pairs_of_a_group_are_told_with_the_numbers(tmp_path: Path) -> None:
    task = load_task_file(_written(tmp_path, ROWS[:10]))
    with pytest.raises(TaskError, match="8 pairs per group and split are needed, the largest group has 5; aligned"):
        load_splits(task, build_tokenizer(), attribution=10, evaluation=10, seed=0)


@pytest.mark.parametrize(
    ("colours", "expected"),
    [
        ({"accuracy": "green", "gap mlp": "green", "gap attn": "red"}, "yellow"),
        ({"accuracy": "green", "gap mlp": "red", "gap attn": "red"}, "red"),
        ({"accuracy": "red", "gap mlp": "green"}, "red"),
        ({"accuracy": "green", "gap mlp": "green"}, "green"),
        ({"accuracy": "green", "gap mlp": "yellow", "gap attn": "yellow"}, "yellow"),
        ({"levels": "yellow"}, "yellow"),
    ],
)
def test_the_verdict_is_red_where_no_result_would_count(colours: dict[str, str], expected: str) -> None:
    assert verdict([Finding(colour, what, "") for what, colour in colours.items()]) == expected  # type: ignore[arg-type] # texts


@pytest.mark.parametrize(("empty", "colour"), [(0.0, "green"), (-1.5, "yellow"), (2.5, "red")])
def test_pairs_that_all_change_one_way_are_yellow(empty: float, colour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    full = torch.linspace(1, 3, 20)
    group: Any = SimpleNamespace(full=full, empty_everywhere=lambda *_: full - 2 + empty)
    monkeypatch.setattr("basisbench.runs.data_check.clusters_of_groups", lambda _: {"pair": tuple(range(20))})
    _, *gaps = check_model((group,))
    assert {finding.colour for finding in gaps} == {colour}
    assert ("the other way round" in gaps[0].found) == (colour == "yellow")
