"""Pictures for print: inches, fonts, captions in LaTeX, the same bytes each time, no text on other text."""

from __future__ import annotations

import colorsys
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
import zlib
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from basisbench.cli import main
from basisbench.errors import BasisBenchError
from basisbench.plots.cost import plot_cost
from basisbench.plots.curves import plot_curves
from basisbench.plots.look import WIDTHS, Width, inches, look_of
from basisbench.plots.pictures import plot_results
from basisbench.plots.style import COLOURS, basis_styles
from basisbench.plots.text import unbroken
from basisbench.results.frame import frame_of, summarise
from basisbench.results.record import Record
from helpers.altered_records import without_effect
from helpers.drawn_figures import DISPLAY, drawn, legend_labels, line, shown_texts
from helpers.synthetic_records import TASKS, synthetic_record, synthetic_suite, write_suite

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("error")]

LONG_NAMES = (
    "sae:gemma-scope-2-270m-pt-res-all:layer_*_width_16k_l0_small",
    "sae:gemma-scope-2-270m-pt-res-all:layer_*_width_262k_l0_big",
    "sae:/home/x/folder",
    "clt:mntss/clt-gemma-2-2b-426k",
    "sae:gemma-scope-2b-pt-transcoders-with-a-long-tail",
)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(synthetic_suite(methods=("relp", "ig"), examples=24))


@pytest.fixture(scope="module")
def frame(records: list[Record]) -> pd.DataFrame:
    return frame_of(records)


@pytest.fixture(scope="module")
def long_names() -> list[Record]:
    """Records of one family whose bases have the names of published dictionaries."""
    records = [synthetic_record(task, "resid") for task in TASKS[:4]]
    return records + [synthetic_record(task, "sae_resid", name=name) for task in TASKS[:4] for name in LONG_NAMES]


def check_texts(figure: Figure) -> None:
    """Every text lies inside the figure and on no other, in 7 or 8 points; there is no title over all."""
    drawn(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = shown_texts(figure)
    shown = [(artist.get_text(), artist.get_window_extent(renderer)) for artist in texts]
    shown = [(text, box) for text, box in shown if box.width > 0]
    assert len(shown) > 10
    for (one, a), (other, b) in combinations(shown, 2):
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(overlap) <= 0.5, f"{one!r} lies on {other!r}: {overlap}"
    assert {artist.get_fontsize() for artist in texts} == {7.0, 8.0}
    assert figure.get_suptitle() == ""


@pytest.mark.parametrize(
    ("width", "tasks", "x"),
    [
        *(("column", 9, "size"), ("column", 1, "bits"), ("column", 4, "bits"), (2.5, 9, "bits"), (2.5, 2, "size")),
        *(("page", 9, "bits"), ("page", 2, "size"), ("page", 4, "size")),
    ],
)
def test_curves_fit_their_width(frame: pd.DataFrame, width: Width, tasks: int, x: str) -> None:
    rows = frame[frame["task"].isin(TASKS[:tasks]) & (frame["family"] == "mlp")]
    figure = plot_curves(rows, quantity="faithfulness", x=x, style="paper", width=width)  # type: ignore[arg-type]
    check_texts(figure)
    assert figure.get_figwidth() == inches(width)
    assert figure.get_figheight() < 9.5
    titles = [axes.get_title() for axes in figure.axes if axes.axison]
    assert titles == ([""] if tasks == 1 else sorted(TASKS[:tasks]))


@pytest.fixture(scope="module")
def summaries(records: list[Record], long_names: list[Record]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Summaries of both."""
    return summarise(records), summarise(long_names)


@pytest.mark.parametrize("width", ["column", "page"])
def test_every_kind_fits_its_width(
    frame: pd.DataFrame, summaries: tuple[pd.DataFrame, ...], long_names: list[Record], width: Width
) -> None:
    few = frame[frame["task"].isin(TASKS[:2])]
    check_texts(plot_curves(few[few["family"] == "mlp"], style="paper", width=width))
    check_texts(plot_curves(few, quantity="completeness", style="paper", width=width))
    check_texts(plot_curves(few[few["basis"] == "mlp_out"], lines="method", style="paper", width=width))
    cross = few[few["basis"].isin(["mlp_act", "mlp_out"])]
    check_texts(plot_curves(cross, lines="basis and method", quantity="faithfulness", style="paper", width=width))
    for summary in summaries:
        styles = basis_styles(list(summary["basis"].unique()), DISPLAY)
        check_texts(plot_cost(summary, styles, DISPLAY, look=look_of("paper", width)))
    check_texts(plot_curves(frame_of(long_names), quantity="faithfulness", style="paper", width=width))


@pytest.mark.parametrize("times", [1000, 10**6])
def test_numbers_of_wide_bases_do_not_touch(frame: pd.DataFrame, times: int) -> None:
    rows = frame[frame["task"].isin(TASKS[:4]) & (frame["family"] == "mlp")]
    rows = rows.assign(size=rows["size"] * times, bits=rows["bits"] * times)
    for x in ("size", "bits"):
        check_texts(plot_curves(rows, quantity="faithfulness", x=x, style="paper", width=2.75))  # type: ignore[arg-type]


def test_the_same_lines_colours_and_order_as_in_ordinary_pictures(frame: pd.DataFrame) -> None:
    rows = frame[(frame["family"] == "mlp") & (frame["task"] == "ioi")]
    ordinary, paper = (plot_curves(rows, quantity="faithfulness", style=style) for style in ("ordinary", "paper"))  # type: ignore[arg-type]
    assert legend_labels(ordinary) == legend_labels(paper)
    for label in legend_labels(paper)[:-1]:
        (left,), (right,) = (
            [item for item in figure.axes[0].get_lines() if item.get_label() == label] for figure in (ordinary, paper)
        )
        assert (left.get_color(), left.get_marker()) == (right.get_color(), right.get_marker())
        np.testing.assert_array_equal(line(ordinary.axes[0], label), line(paper.axes[0], label))
    assert paper.axes[0].get_ylim() == ordinary.axes[0].get_ylim()


def test_lines_differ_without_colour(long_names: list[Record], frame: pd.DataFrame) -> None:
    for rows in (frame_of(long_names), frame[frame["family"] == "mlp"], frame[frame["family"] == "resid"]):
        figure = plot_curves(rows, quantity="faithfulness", style="paper")
        handles = figure.legends[0].get_lines()[:-1]
        looks = {(handle.get_linestyle(), handle._unscaled_dash_pattern, handle.get_marker()) for handle in handles}
        assert len(looks) == len(handles) > 1
    # A picture has the raw neurons and every n-th of the other bases: they must differ in line and marker for every n.
    styles = list(basis_styles([f"plug_in_{number:02}" for number in range(30)], DISPLAY).values())
    for step in range(1, 7):
        chunk = styles[::step][:5]
        assert len({(style.line, style.marker) for style in chunk}) == len(chunk)
    for style in styles:
        assert colorsys.rgb_to_hls(*to_rgb(COLOURS[style.colour]))[1] < 0.75, "too pale for white paper"


def test_values_outside_and_undefined_curves_are_told_in_the_caption() -> None:
    records = [synthetic_record("ioi", "mlp_act", overshoot=1.4), synthetic_record("sva_rc", "mlp_act")]
    records += [synthetic_record("ioi", "mlp_out"), without_effect(synthetic_record("sva_rc", "mlp_out"))]
    figure = plot_curves(frame_of(records), quantity="faithfulness", style="paper")
    check_texts(figure)
    notes = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert [note.split(":")[0] for note in notes] == ["outside", "below a gate\nnot defined"]
    caption = figure.get_label()
    assert r"Not defined, as $F(M) = F(\emptyset)$: mlp\_out in sva\_rc." in caption
    assert r"Grey panels, below a gate, have too little to explain: sva\_rc (gap 0\% of F(M)" in caption
    assert "Triangles: values outside the axis" in caption


def test_the_caption_says_what_the_title_does_not(long_names: list[Record]) -> None:
    caption = plot_curves(frame_of(long_names), quantity="faithfulness", x="bits", style="paper").get_label()
    assert caption.startswith("Faithfulness, family resid: method relp, pocket-llama, mean ablation")
    assert "Panels (version 1 of each task): ioi, sva\\_nounpp, " in caption
    assert "95\\% bootstrap" in caption
    for name in LONG_NAMES:
        assert unbroken(name) in caption
    # Only commands of LaTeX itself, so that a document needs no package.
    known = {"textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar", "ldots"}
    known |= {"texttt", "allowbreak", "emptyset", "setminus", "log", "_", "%", "&", "#", "$", "{", "}"}
    assert set(re.findall(r"\\([A-Za-z]+|.)", caption)) <= known
    assert "\n" not in caption


def test_results_without_a_defined_curve_still_have_pictures(tmp_path: Path) -> None:
    written = plot_results([without_effect(synthetic_record())], tmp_path, style="paper", formats=("png",))
    # Four curves with their texts, and no cost picture, which would be without a point.
    assert len(written) == 8
    assert not any(path.stem.startswith("cost") for path in written)
    assert "Not defined" in (tmp_path / "faithfulness_mlp.tex").read_text(encoding="utf-8")


def test_dollars_in_a_name_are_no_mathematics() -> None:
    record = synthetic_record(basis="mlp_out", name="a$b_{$c")
    figure = plot_curves(frame_of([synthetic_record(), record]), quantity="faithfulness", style="paper")
    check_texts(figure)
    assert r"a\$b_{\$c" in legend_labels(figure)


# --- files ---


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of one task, two bases and two methods."""
    folder = tmp_path_factory.mktemp("results")
    write_suite(folder, list(synthetic_suite(tasks=("ioi",), bases=("mlp_act", "mlp_out"), methods=("relp", "ig"))))
    return folder


@pytest.fixture(scope="module")
def written(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pictures of that folder, at page width."""
    folder = tmp_path_factory.mktemp("paper")
    files = plot_results(results, folder, style="paper", width="page")
    assert sorted(files) == sorted(folder.iterdir())
    return folder


def test_every_picture_has_three_files_and_a_caption(written: Path) -> None:
    stems = {path.stem for path in written.iterdir()}
    assert stems == {
        *("faithfulness_mlp", "completeness_mlp", "faithfulness_bits_mlp", "faithfulness_units_mlp"),
        *("cross_bases_methods", "cost"),
        *("methods_mlp_act", "methods_mlp_out"),
    }
    for stem in stems:
        assert {path.suffix for path in written.glob(f"{stem}.*")} == {".png", ".svg", ".pdf", ".tex"}
        assert len((written / f"{stem}.tex").read_text(encoding="utf-8").splitlines()) == 1


def test_sizes_in_inches(written: Path) -> None:
    for path in written.glob("*.pdf"):
        (box,) = set(re.findall(rb"/MediaBox \[ *([\d. ]+) *\]", path.read_bytes()))
        left, bottom, right, top = map(float, box.split())
        assert (left, bottom) == (0, 0)
        assert right / 72 == pytest.approx(WIDTHS["page"])
        svg = ET.parse(path.with_suffix(".svg")).getroot()
        assert float(svg.get("width", "").removesuffix("pt")) == pytest.approx(right)
        assert float(svg.get("height", "").removesuffix("pt")) == pytest.approx(top)
        with Image.open(path.with_suffix(".png")) as image:
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            assert image.width / 300 == pytest.approx(WIDTHS["page"], abs=0.004)
            assert image.height / 300 == pytest.approx(top / 72, abs=0.004)


def test_fonts_are_embedded_truetype_and_svg_needs_none(written: Path) -> None:
    for path in written.glob("*.pdf"):
        data = path.read_bytes()
        fonts = re.findall(rb"/Type /Font\b.*?>>", data, re.DOTALL)
        streams = [
            zlib.decompress(part)
            for part in re.findall(rb"FlateDecode.*?stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL)
        ]
        text = data + b"".join(streams)
        assert fonts or b"/Font" in text
        assert b"/Type3" not in text
        named = re.findall(rb"/FontName /(\S+)", text)
        assert named
        assert text.count(b"/FontFile2") == len(named), "a font is not embedded as TrueType"
        svg = path.with_suffix(".svg").read_text(encoding="utf-8")
        assert "<text" not in svg
        assert "<image" not in svg, "curves are vectors"


@pytest.mark.slow
def test_the_same_bytes_in_another_process_at_another_time(results: Path, written: Path, tmp_path: Path) -> None:
    one, ordinary = tmp_path / "one", tmp_path / "ordinary"
    write_suite(one, [synthetic_record()])
    plot_results(one, ordinary, formats=("svg",))
    code = (
        "from basisbench.plots.pictures import plot_results\n"
        f"plot_results({str(results)!r}, {str(tmp_path / 'paper')!r}, style='paper', width='page')\n"
        f"plot_results({str(one)!r}, {str(tmp_path / 'again')!r}, formats=('svg',))\n"
    )
    # Sets and hashes of texts are in another order there.
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
    for ours, theirs, count in ((written, tmp_path / "paper", 8 * 4), (ordinary, tmp_path / "again", 5)):
        files = [sorted(folder.iterdir()) for folder in (ours, theirs)]
        assert len(files[0]) == len(files[1]) == count
        for left, right in zip(*files, strict=True):
            assert (left.name, left.read_bytes()) == (right.name, right.read_bytes())
            if left.suffix in (".pdf", ".svg"):
                assert b"20" + str(pd.Timestamp.now().year).encode()[2:] + b"-" not in left.read_bytes()
                assert b"CreationDate" not in left.read_bytes()


# --- the command ---


def test_the_command_draws_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_suite(tmp_path / "results", [synthetic_record(), synthetic_record(basis="mlp_out")])
    arguments = ["plot", str(tmp_path / "results"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--style", "paper", "--width", "3", "--format", "pdf, png,pdf"]) == 0
    printed = [Path(name) for name in capsys.readouterr().out.split()]
    assert sorted(printed) == sorted((tmp_path / "out").iterdir())
    assert {path.suffix for path in printed} == {".pdf", ".png", ".tex"}
    with Image.open(tmp_path / "out" / "cost.png") as image:
        assert image.width == 900
    assert main([*arguments[:3], str(tmp_path / "plain"), "--format", "svg"]) == 0
    assert {path.suffix for path in (tmp_path / "plain").iterdir()} == {".svg"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--format", "jpg"], "no format of pictures named 'jpg'; did you mean png?"),
        (["--format", ""], "no format of pictures named ''"),
        (["--width", "page"], "--width is for --style paper"),
        (
            ["--style", "paper", "--width", "wide"],
            "width 'wide' of a picture; expected column, page, or 2 to 20 inches",
        ),
        (["--style", "paper", "--width", "nan"], "width 'nan' of a picture"),
        (["--style", "paper", "--width", "1"], "width '1' of a picture"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    options: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_suite(tmp_path / "results", [synthetic_record()])
    assert main(["plot", str(tmp_path / "results"), "--out", str(tmp_path / "out"), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert expected in captured.err
    assert not (tmp_path / "out").exists()


def test_an_unknown_style_is_told(frame: pd.DataFrame) -> None:
    with pytest.raises(BasisBenchError, match="no style of pictures named 'papr'; did you mean paper"):
        plot_curves(frame, style="papr")  # type: ignore[arg-type]
