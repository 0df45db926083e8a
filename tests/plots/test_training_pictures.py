"""Pictures of sparsity against training tokens, and remarks on panels: made-up snapshots of two dictionaries."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from matplotlib.axes import Axes

from basisbench.plots.curves import plot_curves
from basisbench.plots.look import look_of
from basisbench.plots.pictures import plot_results
from basisbench.plots.style import basis_styles
from basisbench.plots.training import plot_training, snapshots_of
from basisbench.results.frame import frame_of, summarise
from basisbench.results.policies import Part, split_with_policies
from basisbench.results.record import Record
from basisbench.types import ErrorPolicy
from helpers.drawn_figures import DISPLAY, drawn, legend_labels, title_of
from helpers.synthetic_records import changed, synthetic_record

pytestmark = pytest.mark.filterwarnings("error")

TOKENS = (50_000, 100_000, 2_000_000)
POLICIES: tuple[ErrorPolicy, ...] = ("coordinates", "node", "ablate")


def snapshot(kind: str, at: int, policy: ErrorPolicy, task: str = "ioi", digest: str = "ab" * 8) -> Record:
    """Return a cell of a dictionary; without errors the first snapshot does not reach 80%."""
    record = synthetic_record(
        task, "transcoder" if kind == "transcoder" else "sae_mlp_out", name=f"sae:mine/{digest[:2]}/{at}/{kind}",
        examples=24, error_policy=policy, ceiling=0.7 if (policy, at) == ("ablate", TOKENS[0]) else 1.0,
    )  # fmt: skip
    training = {"first_position": 1, "tokens": at, "kind": kind, "digest": digest}
    return changed(record, record={"training": training}, guard={"fvu": tuple(30_000 / at + n / 100 for n in range(4))})


def records(task: str = "ioi") -> list[Record]:
    neurons = [synthetic_record(task, basis, examples=24) for basis in ("mlp_act", "mlp_out")]
    last = snapshot("SAE", TOKENS[-1], "coordinates", task)
    control = changed(last, cell={"basis": f"permuted:{last.cell.basis}"}, record={"control": True})  # of no picture
    neurons.append(control)
    kinds = ("SAE", "transcoder")
    return neurons + [snapshot(kind, at, policy, task) for kind in kinds for at in TOKENS for policy in POLICIES]


def trainings(cells: list[Record]) -> dict[str, object]:
    return {record.id: record.training for record in cells if record.training}


def part_of(cells: list[Record]) -> Part:
    (part,) = split_with_policies(summarise(cells))
    return part


@pytest.mark.slow
def test_points_are_the_cells_and_neurons_are_lines_across() -> None:
    cells = records()
    part = part_of(cells)
    snapshots = snapshots_of(part, trainings(cells), DISPLAY)  # type: ignore[arg-type]
    styles = basis_styles([record.cell.basis for record in cells], DISPLAY)
    figure = plot_training(snapshots, part, styles, DISPLAY)
    panels = drawn(figure)
    assert [axes.get_title().partition(":")[0] for axes in panels] == [*POLICIES, "FVU"]
    summary = summarise(cells).set_index("cell_id")
    for policy, axes in zip(POLICIES, panels, strict=False):
        for record in cells:
            value, low, high = (float(summary.loc[record.id, f"nodes_to_80{end}"]) for end in ("", "_low", "_high"))
            if record.training is None:
                assert any(set(item.get_ydata()) == {value} for item in axes.get_lines())
            elif record.cell.error_policy == policy:
                hollow, y = mark_at(axes, record.training.tokens, styles[longest(record.training.kind)].marker)
                assert hollow == math.isinf(value)
                assert y == (pytest.approx(strip(axes)) if hollow else value)
                bars = [item for item in axes.get_lines() if list(item.get_xdata()) == [record.training.tokens] * 2]
                assert any(list(item.get_ydata()) == [low, high] for item in bars) or math.isinf(high)
    fit = {line.get_marker(): line for line in panels[-1].get_lines()}
    for kind in ("SAE", "transcoder"):
        curve = fit[styles[longest(kind)].marker]
        assert list(curve.get_xdata()) == list(TOKENS)
        assert list(curve.get_ydata()) == pytest.approx([30_000 / at + 0.015 for at in TOKENS])
    assert legend_labels(figure) == ["mlp_act", "mlp_out", "SAE", "transcoder", "hollow, at >N: not reached"]
    told = figure.legends[0].get_title().get_text().replace("\n", " ")
    assert "have seen at most 2M tokens; published ones have seen billions" in told
    assert "error policy" not in title_of(figure)


def longest(kind: str) -> str:
    return f"sae:mine/ab/{TOKENS[-1]}/{kind}"


def strip(axes: Axes) -> float:
    """Return the height at which an axis says that a target is not reached."""
    (place,) = (at for at in axes.yaxis.get_majorticklocs() if axes.yaxis.get_major_formatter()(at, 0) == ">N")
    return float(place)


def mark_at(axes: Axes, tokens: int | None, marker: object) -> tuple[bool, float]:
    """Return whether the mark of a dictionary is hollow, and how high it is."""
    (found,) = (item for item in axes.get_lines() if list(item.get_xdata()) == [tokens] and item.get_marker() == marker)
    return found.get_markerfacecolor() == "white", float(found.get_ydata()[0])


@pytest.mark.slow
def test_a_results_folder_has_one_per_task_where_trainings_have_snapshots(tmp_path: Path) -> None:
    several = [snapshot("SAE", at, policy) for at in TOKENS[:2] for policy in ("coordinates", "ablate")]
    alone = snapshot("SAE", TOKENS[0], "coordinates", "sva_rc")  # one point is no trend
    nameless = changed(
        snapshot("SAE", 7, "coordinates"), record={"training": {"first_position": 0, "tokens": 7, "kind": "SAE"}}
    )
    cells = [*several, synthetic_record("ioi", "mlp_act", examples=24), alone, nameless]
    found = snapshots_of(part_of(cells), trainings([*several, alone]), DISPLAY)  # type: ignore[arg-type]
    assert set(found["task"]) == {"ioi"}
    written = plot_results(cells, tmp_path, style="paper", formats=("svg",))
    assert [path.name for path in written if "training" in path.name] == [
        "training_mlp_ioi.svg",
        "training_mlp_ioi.tex",
    ]
    caption = (tmp_path / "training_mlp_ioi.tex").read_text()
    assert "published ones have seen billions" in caption
    assert "ablate: errors at their reference" in caption


@pytest.mark.slow
def test_two_trainings_of_a_kind_are_told_apart_and_a_gate_is_said() -> None:
    cells = [
        *(snapshot("SAE", at, "node", digest=digest * 8) for digest in ("ab", "cd") for at in TOKENS),
        synthetic_record("ioi", "mlp_out", examples=24),
    ]
    part = part_of(cells)
    part.rows["gate"] = "accuracy 0.5 < 0.75"
    snapshots = snapshots_of(part, trainings(cells), DISPLAY)  # type: ignore[arg-type]
    styles = basis_styles([record.cell.basis for record in cells], DISPLAY)
    figure = plot_training(snapshots, part, styles, DISPLAY)
    assert [axes.get_title().partition(":")[0] for axes in drawn(figure)] == ["node", "FVU"]
    assert legend_labels(figure) == ["mlp_out", "SAE (abababab)", "SAE (cdcdcdcd)"]
    assert "below a gate: accuracy 0.5 < 0.75" in title_of(figure)
    drawn(plot_training(snapshots, part, styles, DISPLAY, look=look_of("paper")))


@pytest.mark.parametrize("style", ["ordinary", "paper"])
def test_remarks_stand_above_the_panel_and_cover_no_curve(style: str) -> None:
    cells = [synthetic_record("ioi", basis, examples=24, overshoot=1.4) for basis in ("attn_out", "sae_attn_out")]
    frame = frame_of(cells).assign(gate="accuracy 0.5 < 0.75")
    figure = plot_curves(frame, quantity="faithfulness", style=style)  # type: ignore[arg-type]
    (axes,) = drawn(figure)
    (note,) = axes.texts
    assert "below a gate" in note.get_text()
    assert "outside: " in note.get_text()
    box = note.get_window_extent()
    assert box.y0 >= axes.get_window_extent().y1
    if axes.get_title():
        assert box.y1 <= axes.title.get_window_extent().y0
