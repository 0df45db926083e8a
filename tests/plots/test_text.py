"""Texts of pictures: escaped for LaTeX, fitted to a width, legends in columns, round times on an axis."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basisbench.plots.cost import nice_times
from basisbench.plots.text import escape, fitted, legend_columns, plain, text_width

pytestmark = pytest.mark.filterwarnings("error")

UNESCAPED = {
    **{f"\\{letter}": letter for letter in "{}$&#_%"},
    "\\textbackslash{}": "\\",
    "\\textasciitilde{}": "~",
    "\\textasciicircum{}": "^",
    "\\textless{}": "<",
    "\\textgreater{}": ">",
    "\\textbar{}": "|",
    "\\ldots{}": "…",
}


@pytest.mark.slow
@given(text=st.text(alphabet=st.sampled_from("\\{}$&#_%~^<>|…ab -\n\t\x00\x1b")) | st.text())
def test_escaped_text_is_the_text_again_and_holds_no_bare_character(text: str) -> None:
    left = escape(text)
    plain = ""
    while left:
        macro = next((macro for macro in UNESCAPED if left.startswith(macro)), left[0])
        assert macro in UNESCAPED or macro not in "\\{}$&#_%~^<>|…", f"a bare {macro!r}"
        plain += UNESCAPED.get(macro, macro)
        left = left[len(macro) :]
    assert plain == "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


@pytest.mark.slow
@settings(max_examples=20)
@given(
    labels=st.lists(st.text(alphabet="abc_mw:", min_size=1, max_size=28), min_size=1, max_size=12),
    width=st.floats(2, 10),
)
def test_legend_columns_fit_or_are_one(labels: list[str], width: float) -> None:
    columns = legend_columns(labels, 7, width, handle=0.4)
    assert 1 <= columns <= len(labels)
    # matplotlib's own filling: the first columns take one entry more.
    parts = np.array_split(np.arange(len(labels)), columns)
    taken = sum(max(text_width(labels[index], 7) + 0.4 for index in part) for part in parts)
    assert columns == 1 or taken <= width + 1e-9


def test_titles_are_shortened_until_they_fit() -> None:
    assert fitted("sva_rc", 7, 2) == "sva_rc"
    short = fitted("a_task_of_my_own_with_a_very_long_name", 7, 1)
    assert text_width(short, 7) <= 1
    assert short.startswith("a_task")
    assert short.endswith("name")


@given(low=st.floats(1e-4, 1e4), ratio=st.floats(1.3, 1e6), most=st.integers(2, 6))
def test_round_times_lie_on_the_axis(low: float, ratio: float, most: int) -> None:
    times = nice_times(low, low * ratio, most=most)
    assert 2 <= len(times) <= most
    assert all(low <= time <= low * ratio for time in times)
    assert times == sorted(set(times))


@pytest.mark.parametrize("width", [0.1, 1.3, *(pytest.param(width, marks=pytest.mark.slow) for width in (0.5, 0.9, 5))])
def test_as_much_of_a_line_is_kept_as_fits(width: float) -> None:
    text = "some_basis: $of a name$"
    halves = [f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}" for kept in range(len(text) - 1, 2, -1)]
    fitting = [line for line in (text, *halves) if text_width(plain(line), 8) <= width]
    assert fitted(text, 8, width) == (fitting[0] if fitting else halves[-1])
