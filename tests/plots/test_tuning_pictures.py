"""Pictures of what is left as a model is tuned: made-up checkpoints of a model with neurons and a dictionary."""

from __future__ import annotations

from pathlib import Path

import pytest

from basisbench.plots.pictures import plot_results
from basisbench.plots.style import basis_styles
from basisbench.plots.tuning import checkpoints_of, plot_tuning
from basisbench.results.frame import summarise
from basisbench.results.record import Record
from helpers.drawn_figures import DISPLAY, drawn, legend_labels
from helpers.synthetic_records import changed, synthetic_record

pytestmark = pytest.mark.filterwarnings("error")

BASES, TOKENS = ("mlp_act", "transcoder"), (0, 1000, 30_000)


def checkpoint(basis: str, tokens: int, digest: str = "cd" * 8) -> Record:
    """Return a cell of a model after so many tokens of tuning; the last dictionary does not reach 80%."""
    stale = (basis, tokens) == ("transcoder", TOKENS[-1])
    record = synthetic_record("ioi", basis, examples=24, ceiling=0.7 if stale else 1.0)
    if record.guard:
        record = changed(record, guard={"fvu": (0.1 + tokens / 1e5,) * 4, "loss_recovered": 0.9 - tokens / 1e4})
    if not tokens:
        return record
    tuning = {"start": record.identities.model, "tokens": tokens, "digest": digest}
    return changed(
        record, cell={"model": f"mine-{tokens}"}, identities={"model": f"{tokens:064d}"}, record={"tuning": tuning}
    )


def test_points_are_the_cells_of_each_checkpoint() -> None:
    cells = [checkpoint(basis, tokens) for basis in BASES for tokens in TOKENS]
    control = changed(cells[-1], cell={"basis": "permuted:transcoder"}, record={"control": True})
    summary = summarise([*cells, control])
    tunings = {record.id: record.tuning for record in [*cells, control] if record.tuning}
    ((digest, rows),) = checkpoints_of(summary, tunings, DISPLAY)
    assert digest == "cd" * 8
    assert sorted(rows["tokens"]) == sorted(TOKENS * 2)
    assert set(rows["basis"]) == set(BASES)
    figure = plot_tuning(rows, basis_styles(list(BASES), DISPLAY), DISPLAY)
    nodes, fvu, recovered, accuracy = drawn(figure)
    assert [axes.get_title() for axes in drawn(figure)] == ["nodes to 80%", "FVU", "loss recovered", "accuracy"]
    by_cell = {(row["basis"], row["tokens"]): row for _, row in rows.iterrows()}
    ends = {tuple(line.get_ydata()) for line in nodes.get_lines() if len(set(line.get_xdata())) == 1}
    for (basis, tokens), row in by_cell.items():
        if (basis, tokens) != ("transcoder", TOKENS[-1]):
            assert (row["nodes_to_80"],) in ends
            assert (row["nodes_to_80_low"], row["nodes_to_80_high"]) in ends
    hollow = [line for line in nodes.get_lines() if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in hollow] == [[2]]
    (line,) = fvu.get_lines()
    assert list(line.get_xdata()) == [0, 1, 2]
    assert list(line.get_ydata()) == pytest.approx([0.1 + tokens / 1e5 for tokens in TOKENS])
    assert list(recovered.get_lines()[0].get_ydata()) == pytest.approx([0.9 - tokens / 1e4 for tokens in TOKENS])
    assert recovered.get_ylim()[0] < -2.1
    assert list(accuracy.get_lines()[0].get_ydata()) == [by_cell["mlp_act", tokens]["accuracy"] for tokens in TOKENS]
    assert [label.get_text() for label in accuracy.get_xticklabels()] == ["0", "1k", "30k"]
    assert legend_labels(figure)[:2] == list(BASES)


def test_one_checkpoint_is_no_trend_and_tunings_stay_apart() -> None:
    first, other, twin = checkpoint("mlp_act", 1000), checkpoint("mlp_act", 30_000, "ef" * 8), checkpoint("mlp_act", 0)
    tunings = {record.id: record.tuning for record in (first, other) if record.tuning}
    assert list(checkpoints_of(summarise([first, other]), tunings, DISPLAY)) == []
    assert list(checkpoints_of(summarise([twin]), {}, DISPLAY)) == []
    found = dict(checkpoints_of(summarise([first, other, twin]), tunings, DISPLAY))
    assert {name[:2]: sorted(rows["tokens"]) for name, rows in found.items()} == {"cd": [0, 1000], "ef": [0, 30_000]}


@pytest.mark.slow
def test_a_results_folder_has_one_where_a_model_was_tuned(tmp_path: Path) -> None:
    cells = [checkpoint(basis, tokens) for basis in BASES for tokens in TOKENS[:2]]
    written = plot_results(cells, tmp_path, style="paper", formats=("svg",))
    assert [path.relative_to(tmp_path).as_posix() for path in written if "tuning" in path.name] == [
        "tuning_mlp_ioi.svg",
        "tuning_mlp_ioi.tex",
    ]
    assert "tokens that the model was tuned on" in (tmp_path / "tuning_mlp_ioi.tex").read_text()
