"""What is left of sparsity and fit as a model is tuned: one picture per task, from the checkpoints of a tuning.

1. A point is a cell of a checkpoint: horizontal the tokens that the model was tuned on, evenly spaced, 0 for the model
   before; a line joins those of one basis. Dictionaries stay as they were: those of other weights have other lines.
2. Panels: nodes to 80% faithfulness under the first method, with 95% intervals; FVU and loss recovered of dictionaries
   on the task's prompts; accuracy of the model, which is one line.
3. What does not reach the target stands hollow in a strip above all that does: it is censored, not large.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from basisbench.plots.caption import tuning_caption
from basisbench.plots.look import SCREEN, Look
from basisbench.plots.style import DARK, short_number
from basisbench.plots.text import Description
from basisbench.plots.training import Series, draw_line, draw_nodes, handles_of, make_panels, span_of
from basisbench.results.conditions import CONDITIONS
from basisbench.results.display import Display, unique

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from basisbench.results.record_fields import Tuning
    from basisbench.types import Style

_ALIKE = [
    *(name for name in CONDITIONS if name not in ("model", "model_hash", "error_policy")),
    "family", "task", "task_version",
]  # fmt: skip
_FIT = (("fvu_mean", "FVU"), ("loss_recovered", "loss recovered"))


def checkpoints_of(
    summary: pd.DataFrame, tunings: Mapping[str, Tuning], display: Display
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the cells of the checkpoints of each tuning, and of the model before it; most often none.

    Args:
        summary: rows as `summarise` returns them.
        tunings: how models were tuned, by cell.
        display: order of methods.

    Yields:
        The digest of a tuning, and the rows of one task and family under the first method that its checkpoints share,
        with the column `tokens`; a basis that leaves an error under the first error policy.
    """
    if not tunings:
        return
    rows = summary[~summary["control"] & (summary["method"] == display.first_method(summary))]
    for digest in dict.fromkeys(told.digest for told in tunings.values() if told.digest):
        own = {cell for cell, told in tunings.items() if told.digest == digest}
        start = next(tunings[cell].start for cell in own)
        found = rows[rows["cell_id"].isin(own) | (rows["model_hash"] == start[:12])]
        policy = unique(found[~found["exact"]], "error_policy")[:1]
        found = found[found["exact"] | found["error_policy"].isin(policy)]
        found = found.assign(tokens=found["tuned_tokens"].where(found["cell_id"].isin(own), 0))
        for _, alike in found.groupby(_ALIKE, sort=False):
            if alike["tokens"].nunique() > 1:
                yield str(digest), alike


def plot_tuning(rows: pd.DataFrame, styles: Mapping[str, Style], display: Display, *, look: Look = SCREEN) -> Figure:
    """Draw nodes to 80%, FVU, loss recovered and accuracy against the tokens that a model was tuned on.

    Args:
        rows: of one task and family, of those that `checkpoints_of` yields.
        styles: a style per basis.
        display: order of bases.
        look: of the picture.

    Returns:
        A figure; in print its label (`figure.get_label()`) is the caption in LaTeX.
    """
    first = rows.iloc[0]
    tokens = sorted(set(rows["tokens"]))
    # Evenly spaced: 0 has no place on a logarithmic axis.
    placed = rows.assign(asked=rows["tokens"], tokens=[float(tokens.index(each)) for each in rows["tokens"]])
    placed = placed.assign(error_policy="any")
    names = sorted(unique(rows, "basis"), key=display.basis_order)
    series = [
        Series(name, styles[name], placed[placed["basis"] == name].sort_values("tokens", kind="stable"))
        for name in names
    ]
    fitted = [each for each in series if each.rows["fvu_mean"].notna().any()]
    names_of_panels = ["nodes to 80%", *(name for _, name in _FIT if fitted), "accuracy"]
    about = Description(
        f"{first['task']} (version {first['task_version']}) as the model is tuned, family {first['family']}, method "
        f"{first['method']}",
        f"{rows.loc[rows['tokens'] == tokens[0], 'model'].iloc[0]} before; {first['ablation']} ablation, granularity "
        f"{first['granularity']}, seed {first['seed']}, layers {first['layers']}",
        "Dictionaries are those of the model before tuning",
    )
    panels = make_panels(len(names_of_panels), handles_of(placed.iloc[:0], series, styles, look), look)
    for index, (axes, panel) in enumerate(zip(panels.axes, names_of_panels, strict=True)):
        if panel == "accuracy":
            _draw_accuracy(axes, placed, look)
        elif index == 0:
            draw_nodes(axes, placed.iloc[:0], series, styles, "any", span_of(rows), look)
        else:
            _draw_fit(axes, fitted, next(column for column, name in _FIT if name == panel), look)
        axes.set_xlim(-0.4, len(tokens) - 0.6)
        axes.set_xticks(range(len(tokens)), [short_number(float(f"{each:.2g}")) for each in tokens])
        panels.frame(index, panel, "tokens of tuning")
    reading = f"Bars: 95% bootstrap intervals. FVU: mean over layers, on the task's prompts. {about.panels}."
    return panels.finish(about, [reading], tuning_caption(about))


def _draw_fit(axes: Axes, series: Sequence[Series], column: str, look: Look) -> None:
    for each in series:
        draw_line(axes, each.rows["tokens"], each.rows[column], each.style, look)
    values = [float(value) for each in series for value in each.rows[column].dropna()]
    low, high = min([0.0, *values]), max([0.1 if column == "fvu_mean" else 1.0, *values])
    axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def _draw_accuracy(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    line = rows.drop_duplicates("tokens").sort_values("tokens")
    axes.plot(line["tokens"], line["accuracy"], color=DARK, marker="o", linewidth=look.line, markersize=look.key[1])
    below = line[line["gate"] != ""]
    axes.plot(below["tokens"], below["accuracy"], color=DARK, marker="x", markersize=2 * look.key[1], linestyle="none")
    axes.set_ylim(-0.05, 1.05)
