"""Pictures drawn with less work look as matplotlib itself draws them, pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from PIL import Image

from basisbench.plots.curves import plot_curves
from basisbench.plots.save import save_figure, with_palette
from basisbench.plots.style import draw_grid, set_size_axis

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.slow
@pytest.mark.parametrize(("x", "linear_below"), [("size", 1.0), ("bits", 10.0)])
def test_grid_and_ticks_are_matplotlib_s_own_pixel_by_pixel(x: str, linear_below: float) -> None:
    def pixels(quick: bool) -> np.ndarray:
        figure = Figure(figsize=(6, 5), dpi=150, layout="constrained")
        grid = figure.subplots(2, 2, sharex=True, sharey=True)
        grid[0, 0].set_ylim(-0.25, 1.5)
        grid[0, 0].set_yticks(np.arange(0, 1.5, 0.2))
        set_size_axis(grid[0, 0], 30_000, linear_below=linear_below)
        if not quick:
            powers = [10**power for power in range(5) if 10**power >= linear_below]
            minor = [m * power for power in powers for m in (2, 5) if m * power <= 39_000]
            grid[0, 0].xaxis.set_minor_locator(FixedLocator(minor))
        for (row, column), axes in np.ndenumerate(grid):
            axes.plot([1, 100, 10_000], [0, 0.3, 1])
            axes.set_axisbelow(True)
            if quick:
                draw_grid(axes, 30_000, linear_below=linear_below, x_labels=row == 1, y_labels=column == 0)
            else:
                axes.grid(color="#dddddd", linewidth=0.6)
        grid[1, 0].set_xlabel(x)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())

    np.testing.assert_array_equal(pixels(quick=True), pixels(quick=False))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.49, 0.7])
def test_the_palette_is_that_of_a_median_cut_over_all_pixels(share: float) -> None:
    generator = np.random.default_rng(0)
    picture = np.full((80, 90, 4), 255, dtype=np.uint8)
    drawn = generator.random((80, 90)) < share
    drawn[0, 0] = False
    picture[drawn, :3] = generator.integers(0, 256, (int(drawn.sum()), 3))
    found = with_palette(picture.reshape(-1).view(np.uint32), (90, 80))
    plain = Image.fromarray(picture).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    assert found.mode == "P"
    np.testing.assert_array_equal(np.asarray(found.convert("RGB")), np.asarray(plain.convert("RGB")))


@pytest.mark.slow
def test_a_saved_picture_is_what_savefig_draws(frame: pd.DataFrame, tmp_path: Path) -> None:
    rows = frame[(frame["family"] == "attn") & frame["task"].isin(["ioi", "sva_rc"])]
    save_figure(plot_curves(rows), tmp_path / "quick.png")
    plot_curves(rows).savefig(tmp_path / "plain.png", dpi=150)
    with Image.open(tmp_path / "quick.png") as quick, Image.open(tmp_path / "plain.png") as plain:
        assert quick.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        expected = plain.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        np.testing.assert_array_equal(np.asarray(quick.convert("RGB")), np.asarray(expected.convert("RGB")))
