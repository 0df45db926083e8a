"""The provenance card: how the shipped files came to be, as JSON and as a page to read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def size_of(folder: Path, hidden: str) -> int:
    """Return the bytes of all files below a folder, those below its subfolder `hidden` left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and hidden not in path.parts)
    return sum(path.stat().st_size for path in files)


def render_card(card: Mapping[str, Any]) -> str:
    """Return the card as Markdown."""
    model, dictionaries, cross_layer = card["model"], card["dictionaries"], card["cross_layer"]
    seconds, plan = card["seconds"], card["plan"]
    again = plan.get("dictionary_seed")
    lines = [
        f"# pocket-{plan['model'].get('architecture', 'llama')}: where these files come from",
        "",
        "Written by the build; `card.json` holds the same numbers and more.",
        "",
        f"- Command: `{card['command']}`, seed {plan['seed']}{'' if again is None else f', of dictionaries {again}'}; "
        f"runs that contributed: {card['runs']}",
        f"- Machine: {card['machine']['processor']}, {card['machine']['cores']} cores, "
        f"{card['machine']['threads']} threads, matrix products in {model['precision']}",
        "- Versions: " + ", ".join(f"{name} {number}" for name, number in card["machine"]["packages"].items()),
        "- Seconds: " + ", ".join(f"{phase} {value:.0f}" for phase, value in seconds.items()),
        f"- Model: {model['parameters']:,} parameters, {model['steps']:,} steps, {model['tokens']:,} tokens, "
        f"loss {model['loss']:.4f} in training, {model['held_out_loss']:.4f} nats per token on held-out documents",
        f"- Dictionaries: {dictionaries['steps']:,} steps, {dictionaries['tokens']:,} tokens each "
        f"({dictionaries['fresh_tokens']:,} distinct)",
        f"- Cross-layer transcoder: {cross_layer['parameters']:,} parameters, {cross_layer['steps']:,} steps, "
        f"{cross_layer['tokens']:,} tokens ({cross_layer['fresh_tokens']:,} distinct)",
        "",
        "## Accuracy on held-out evaluation pairs",
        "",
        "Share of pairs whose answer has a higher logit than its foil. Training holds these words back from the "
        "frames they are asked in (`corpus/stream.py` says how), but corpus, weight decay and length were chosen while "
        "these accuracies were watched: they say that the model can do the tasks, not how well an untuned one would.",
        "",
        *_table(
            ("task", "accuracy", "pairs", "required"),
            [(task, f"{row['accuracy']:.3f}", row["pairs"], row["required"]) for task, row in card["tasks"].items()],
        ),
        "",
        "## Dictionaries on held-out documents",
        "",
        "L0 and FVU without the BOS position (FVU with it in brackets); loss recovered against zero ablation "
        "(against mean ablation in brackets), every position replaced; silent units are active on no held-out token.",
        "",
        *_table(
            ("site", "L0", "FVU", "loss recovered", "silent units", "within bounds"),
            [_dictionary_row(site, row) for part in (dictionaries, cross_layer) for site, row in part["sites"].items()],
        ),
        "",
        "A layer of the cross-layer transcoder (clt) is rebuilt from the active units of that layer and all earlier "
        "ones; L0 and silent units count the layer's own.",
        "",
    ]
    return "\n".join(lines)


def _dictionary_row(site: str, row: Mapping[str, Any]) -> tuple[object, ...]:
    unexplained, with_bos = (
        row["fraction_of_variance_unexplained"],
        row["fraction_of_variance_unexplained_with_bos"],
    )
    return (
        site,
        f"{row['l0']:.1f}",
        f"{unexplained:.4f} ({with_bos:.4f})",
        f"{row['loss_recovered_from_zero']:.4f} ({row['loss_recovered_from_mean']:.4f})",
        f"{row['silent_units']} of {row['units']}",
        "yes" if row["within_bounds"] else "no",
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> list[str]:
    body = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |", *body]
