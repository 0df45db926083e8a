"""Dose-response of steered nodes: the metric against the dose beside its controls, and what is said next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from basisbench.plots.look import SCREEN, add_legend, make_figure, set_frame
from basisbench.plots.style import COLOURS, DARK, GRID, method_styles, stroke
from basisbench.plots.text import plain, wrapped
from basisbench.results.steering import LEAST_DRAWS, steering_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from basisbench.results.display import Display
    from basisbench.results.steering import Steering

CHOSEN = COLOURS["vermillion"]
ACROSS = {
    "scale": "dose: values times",
    "set": "dose: values set to",
    "add": "dose: added to values",
    "ablate": "dose: share of the way to the reference",
}
WIDTH, LEAST = 9.0, 1e-6


def plot_steering(found: Steering, display: Display) -> Figure:
    """Draw the metric against the dose, with the controls' interval, and KL of the next token on the task and on text.

    Args:
        found: what was measured.
        display: styles of methods.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure = make_figure(WIDTH, 4.6, SCREEN)
    left, right = figure.subplots(1, 2)
    doses = [dose.dose for dose in found.doses]
    methods = list(found.doses[0].baselines)
    styles = method_styles(methods, display)
    _metric(left, found, doses)
    _divergence(right, found, doses)
    for name in methods:
        outcomes = [dose.baselines[name] for dose in found.doses]
        left.plot(doses, [each.metric for each in outcomes], linewidth=SCREEN.line, **stroke(styles[name]))
        right.plot(doses, [max(each.kl, LEAST) for each in outcomes], linewidth=SCREEN.line, **stroke(styles[name]))
    for axes in (left, right):
        axes.set_xlabel(ACROSS[found.operation], fontsize=SCREEN.label)
        axes.grid(color=GRID, linewidth=SCREEN.grid)
        axes.set_axisbelow(True)
        if found.unchanged is not None:
            axes.axvline(found.unchanged, color=DARK, linewidth=SCREEN.thin, linestyle=":")
        set_frame(axes, SCREEN, bottom=True, left=True)
    left.set_ylabel("answer logit - foil logit", fontsize=SCREEN.label)
    right.set_ylabel("KL(unhooked || steered), nats", fontsize=SCREEN.label)
    left.set_title("the metric", fontsize=SCREEN.title)
    right.set_title("the next token", fontsize=SCREEN.title)
    level = " (95% interval)" if found.draws >= LEAST_DRAWS else ""
    width, marker = SCREEN.key
    handles: list[Any] = [
        Line2D([], [], color=CHOSEN, marker="o", linewidth=width, markersize=marker, label="chosen nodes"),
        Patch(color=COLOURS["grey"], alpha=0.35, label=f"{found.draws} draws of nodes like them{level}"),
        *(
            Line2D([], [], linewidth=width, label=f"as many, best by {name}", **stroke(styles[name]))
            for name in methods
        ),
        Line2D([], [], color=DARK, linewidth=SCREEN.thin, label="unhooked model"),
    ]
    if found.text:
        text = Line2D([], [], color=CHOSEN, marker="s", markerfacecolor="white", linestyle="--", linewidth=width)
        text.set(markersize=marker, label=f"chosen nodes, per token of {plain(found.text)}")
        handles.append(text)
    add_legend(figure, handles, WIDTH, SCREEN)
    figure.suptitle(plain("\n".join(wrapped(steering_title(found), WIDTH))), fontsize=11)
    return figure


def _metric(axes: Axes, found: Steering, doses: Sequence[float]) -> None:
    low, high = zip(*map(found.interval, found.doses), strict=True)
    axes.fill_between(doses, low, high, color=COLOURS["grey"], alpha=0.35, linewidth=0)
    axes.axhline(found.full.metric, color=DARK, linewidth=SCREEN.thin)
    middle = [dose.chosen.metric for dose in found.doses]
    bars = [
        [value - dose.low for value, dose in zip(middle, found.doses, strict=True)],
        [dose.high - value for value, dose in zip(middle, found.doses, strict=True)],
    ]
    axes.errorbar(
        doses, middle, yerr=bars, color=CHOSEN, marker="o", markersize=SCREEN.key[1], linewidth=SCREEN.line,
        elinewidth=SCREEN.whisker, capsize=2,
    )  # fmt: skip


def _divergence(axes: Axes, found: Steering, doses: Sequence[float]) -> None:
    """Draw KL on a logarithmic axis; what is less than a millionth of a nat, none at all too, at its lower end."""
    rows = found.doses
    low = [max(LEAST, min(dose.controls_kl)) for dose in rows]
    high = [max(LEAST, max(dose.controls_kl)) for dose in rows]
    axes.fill_between(doses, low, high, color=COLOURS["grey"], alpha=0.35, linewidth=0)
    kl = [max(dose.chosen.kl, LEAST) for dose in rows]
    axes.plot(doses, kl, color=CHOSEN, marker="o", markersize=SCREEN.key[1], linewidth=SCREEN.line)
    if found.text:
        told = [max(dose.text_kl or 0, LEAST) for dose in rows]
        axes.plot(
            doses, told, color=CHOSEN, marker="s", markersize=SCREEN.key[1], linewidth=SCREEN.line, linestyle="--",
            markerfacecolor="white",
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(bottom=LEAST * 0.7)
