"""Text for LaTeX: names as they are, whatever characters they hold."""

from __future__ import annotations

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
