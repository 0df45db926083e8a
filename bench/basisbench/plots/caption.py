r"""Captions in LaTeX: what the title and the notes of a picture on the screen say, for print.

LaTeX without packages, names escaped, for `\caption{...}`; a file of it is read with
`\caption{\protect\input{NAME.tex}}`. Until it is written it is the figure's label, `figure.get_label()`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from basisbench.plots.text import Description, escape, unbroken

X_CAPTION: dict[str, str] = {
    "size": "Horizontal: circuit size, $k$ nodes in each aligned group, logarithmic from 1 on, with 0 at the left end.",
    "bits": "Horizontal: bits that name a circuit of $k$ nodes, the logarithm to base 2 of the number of ways to "
    "choose them from all $N$, logarithmic from 10 on and linear below; bits compare bases of different width.",
    "all_units": "Horizontal: distinct units in the circuits of all aligned groups together, logarithmic from 1 on, "
    "with 0 at the left end.",
}
Y_CAPTION: dict[str, str] = {
    "faithfulness": "faithfulness of the circuit $C$, $(F(C) - F(\\emptyset)) / (F(M) - F(\\emptyset))$ "
    "(0: empty circuit, 1: full model)",
    "completeness": "completeness, $(F(M \\setminus C) - F(\\emptyset)) / (F(M) - F(\\emptyset))$: what the rest still "
    "does (0: nothing, ideal; 1: full model)",
}
ERRORS: dict[str, str] = {
    "coordinates": "a node per coordinate of an error",
    "rotated": "the same in a rotation of the site",
    "node": "a node per error (Marks et al.)",
    "keep": "errors stay live",
    "ablate": "errors at their reference",
}
"""What becomes of a dictionary's errors, by policy."""
READING: dict[str, str] = {
    "node": "Thin: a dictionary's errors as one node per layer and position (Marks et al.), not one per coordinate.",
    "ablate": "Dotted levels, in the colour of a dictionary: all of its features, errors at their reference.",
    "faint": "Faint beyond $|$: nodes without a score, in random order.",
    "outside": "Triangles: values outside the axis, the farthest is named; bands are cut there.",
}


def curves_caption(
    about: Description,
    x: str,
    quantities: Sequence[str],
    reading: Sequence[str],
    *,
    undefined: Sequence[tuple[str, Sequence[str]]],
    gates: Mapping[str, str],
) -> str:
    """Write the caption of a picture of curves.

    Args:
        about: what the picture shows, in plain text.
        x: column of the horizontal axis.
        quantities: columns of the vertical axes.
        reading: keys of `READING`, what is to be said of lines that are not those of the legend.
        undefined: titles of panels with the labels of their lines that are not defined.
        gates: titles of panels below a gate, with the reason.
    """
    sentences = [
        f"{escape(about.heading)}: {escape(about.conditions)}.",
        f"{escape(about.panels)}.",
        X_CAPTION[x],
        f"Vertical: {'; '.join(Y_CAPTION[name] for name in quantities)}.",
        "Bands: 95\\% bootstrap intervals. Dotted, in grey: the ideal value.",
    ]
    sentences += [READING[name] for name in reading]
    if gates:
        places = "; ".join(f"{escape(title)} ({escape(reason)})" for title, reason in gates.items())
        sentences.append(f"Grey panels, below a gate, have too little to explain: {places}.")
    if undefined:
        places = "; ".join(f"{escape(', '.join(labels))} in {escape(title)}" for title, labels in undefined)
        sentences.append(f"Not defined, as $F(M) = F(\\emptyset)$: {places}.")
    return " ".join([*sentences, *_short_names(about)])


def cost_caption(about: Description, hardware: str) -> str:
    """Write the caption of a picture of cost.

    Args:
        about: what the picture shows, in plain text.
        hardware: device and threads.
    """
    sentences = [
        f"{escape(about.heading)}, {escape(about.panels)}; {escape(about.conditions)}.",
        "Horizontal: nodes per aligned group to 80\\% faithfulness, logarithmic; fewer is sparser. Hollow, at $>N$: "
        "not reached by nodes that have a score.",
        f"Vertical: seconds of all phases of a cell on {escape(hardware)}, logarithmic; work that cells share "
        "counts in each.",
    ]
    return " ".join([*sentences, *_short_names(about)])


def training_caption(about: Description, policies: Sequence[str]) -> str:
    """Write the caption of a picture of sparsity against training tokens.

    Args:
        about: what the picture shows, in plain text.
        policies: error policies, a panel each.
    """
    panels = "; ".join(f"{name}: {ERRORS[name]}" for name in policies)
    sentences = [
        f"{escape(about.heading)}: {escape(about.conditions)}.",
        f"Panels by what becomes of errors: {panels}.",
        "Horizontal: tokens that the dictionaries were trained on, logarithmic.",
        "Vertical: nodes per aligned group to 80\\% faithfulness, logarithmic, with 95\\% bootstrap intervals; "
        "neurons, which are not trained, are lines across. Hollow, at $>N$: not reached by nodes that have a score.",
        "FVU: fraction of variance unexplained on the task's prompts, mean over layers.",
        *([f"{escape(about.panels)}."] if about.panels else []),
    ]
    return " ".join(sentences)


def fit_caption(about: Description, policies: Sequence[str], *, shares: bool) -> str:
    """Write the caption of a picture of sparsity against fit.

    Args:
        about: what the picture shows, in plain text.
        policies: error policies, a panel each.
        shares: whether there is a panel of the share of attribution in errors.
    """
    panels = "; ".join(f"{name}: {ERRORS[name]}" for name in policies)
    sentences = [
        f"{escape(about.heading)}: {escape(about.conditions)}.",
        f"Panels by what becomes of errors: {panels}.",
        *(["The last panel: share of the sum of $|$scores$|$ that lies in errors."] if shares else []),
        "Horizontal: fraction of variance unexplained on the task's prompts, mean over layers, logarithmic; lines join "
        "dictionaries of one kind and width.",
        "Vertical: nodes per aligned group to 80\\% faithfulness, logarithmic, with 95\\% bootstrap intervals; "
        "neurons, which leave nothing unexplained, are lines across. Hollow, at $>N$: not reached by nodes that have a "
        "score.",
    ]
    return " ".join(sentences)


def tuning_caption(about: Description) -> str:
    """Write the caption of a picture of what is left as a model is tuned.

    Args:
        about: what the picture shows, in plain text.
    """
    sentences = [
        f"{escape(about.heading)}: {escape(about.conditions)}.",
        "Horizontal: tokens that the model was tuned on, evenly spaced. Nodes: per aligned group to 80\\% "
        "faithfulness, logarithmic, with 95\\% bootstrap intervals; hollow, at $>N$: not reached by nodes that have a "
        "score. FVU, fraction of variance unexplained (mean over layers), and loss recovered: on the task's prompts. "
        "Accuracy: of the model; a cross where there is too little to explain.",
        f"{escape(about.panels)}.",
    ]
    return " ".join(sentences)


def _short_names(about: Description) -> list[str]:
    """Return the sentence that says what short labels stand for."""
    pairs = "; ".join(f"{escape(label)}: {unbroken(name)}" for name, label in about.labels.items() if label != name)
    return [f"Short names: {pairs}."] if pairs else []
