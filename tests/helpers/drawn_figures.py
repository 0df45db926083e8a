"""What a figure shows, for tests of pictures: its axes, lines, legend and title; no text may leave the figure."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from basisbench.registry import built_in

DISPLAY = built_in().display()
"""Order and styles that the built-in bases and methods declare."""


def drawn(figure: Figure) -> list[Axes]:
    """Draw the figure and return the axes in use; no visible text may stick out of the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    bounds = figure.bbox
    for artist in shown_texts(figure):
        box = artist.get_window_extent(renderer)
        if box.width == 0:
            continue
        assert box.x0 >= bounds.x0 - 1, artist.get_text()
        assert box.x1 <= bounds.x1 + 1, artist.get_text()
        assert box.y0 >= bounds.y0 - 1, artist.get_text()
        assert box.y1 <= bounds.y1 + 1, artist.get_text()
    return [axes for axes in figure.axes if axes.axison]


def shown_texts(figure: Figure) -> list[Text]:
    """Return what is written; tick labels outside the axis limits and those of unused axes exist but are not drawn."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.majorTicks, *axis.minorTicks]:
                if not (axes.axison and low <= tick.get_loc() <= high):
                    hidden |= {tick.label1, tick.label2}
    return [
        artist
        for artist in figure.findobj(Text)
        if isinstance(artist, Text) and artist.get_visible() and artist.get_text().strip() and artist not in hidden
    ]


def legend_labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def title_of(figure: Figure) -> str:
    title = figure.get_suptitle()
    return title.replace("\n", " ")


def line(axes: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    (found,) = [item for item in axes.get_lines() if item.get_label() == label]
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())
