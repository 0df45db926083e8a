"""Words of pictures: what a picture says of itself, how wide text is before it is drawn, and text in LaTeX."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Description:
    """What a picture says of itself: around the panels on the screen, in a caption in print.

    Attributes:
        heading: what is drawn.
        conditions: what the panels have in common.
        panels: what tells the panels apart, for a caption.
        labels: label by name of the bases that the picture names.
    """

    heading: str
    conditions: str
    panels: str
    labels: Mapping[str, str] = field(default_factory=dict)


def plain(text: str) -> str:
    """Keep matplotlib from reading dollar signs of a name as mathematics."""
    return text.replace("$", r"\$")


def text_width(text: str, size: float) -> float:
    """Return the width in inches of a line of text in the default font.

    Args:
        text: one line; `$...$` is measured as mathematics.
        size: of the font, in points.
    """
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), text, size=size).get_extents().width) / 72 if text.strip() else 0.0


def legend_columns(labels: Sequence[str], size: float, width: float, *, handle: float, most: int | None = None) -> int:
    """Return how many columns of a legend fit; matplotlib fills them one after the other, the first ones longest.

    Args:
        labels: entries in order.
        size: of the font, in points.
        width: what there is, in inches.
        handle: what each column takes besides its text, in inches.
        most: most columns; by default one per entry.
    """
    inches = [text_width(label, size) + handle for label in labels]
    for columns in range(min(most or len(labels), len(labels)), 1, -1):
        rows, longer = divmod(len(labels), columns)
        heights = [rows + (column < longer) for column in range(columns)]
        starts = [sum(heights[:column]) for column in range(columns)]
        if sum(max(inches[start : start + height]) for start, height in zip(starts, heights, strict=True)) <= width:
            return columns
    return 1


def fitted(text: str, size: float, width: float) -> str:
    """Shorten a line of text in its middle until it fits.

    Args:
        text: one line, without mathematics.
        size: of the font, in points.
        width: what there is, in inches.
    """

    def short(kept: int) -> str:
        return text if kept == len(text) else f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"

    def fits(kept: int) -> bool:
        return text_width(plain(short(kept)), size) <= width

    if len(text) <= 3 or fits(len(text)):
        return text
    # Measuring takes as long as the text, so that the longest that fits is bracketed, not tried letter by letter.
    low, high = 3, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return short(low)


def wrapped(text: str, width: float) -> list[str]:
    """Wrap a line of a title to a figure's width in inches, between its pieces where it has any."""
    bound = text.replace(" ", "\u00a0").replace(",\u00a0", ", ").replace(".\u00a0", ". ") if ", " in text else text
    return [line.replace("\u00a0", " ") for line in textwrap.wrap(bound, int(width * 12))]


def name_lines(notes: Sequence[str], width: float) -> list[str]:
    """Return a line per note on a name, broken anywhere where it is longer than a figure of that width in inches."""
    return [line for text in notes for line in textwrap.wrap(text, int(width * 14), break_on_hyphens=False)]


_SPECIAL = {
    **{letter: f"\\{letter}" for letter in "{}$&#_%"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "…": r"\ldots{}",
}


def escape(text: str) -> str:
    """Write plain text so that LaTeX prints it as it is.

    Args:
        text: any text; white space of every kind becomes single blanks, as it does in LaTeX; other control characters,
            which LaTeX refuses, are left out.
    """
    printable = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return "".join(_SPECIAL.get(letter, letter) for letter in printable)


def unbroken(text: str) -> str:
    """Write a name in the typewriter font; LaTeX may break it after `_`, `/`, `:` and `-`, where it would not else.

    Args:
        text: a name, for example of a basis.
    """
    written = escape(text)
    for mark in (r"\_", "/", ":"):
        written = written.replace(mark, mark + r"\allowbreak{}")
    return rf"\texttt{{{written}}}"
