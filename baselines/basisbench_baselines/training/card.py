"""The card beside what was trained: how it came to be and how good it is, as JSON and as a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basisbench.results.record import write_whole
from basisbench_baselines.training.checkpoint import write_json
from basisbench_baselines.training.machine import describe_machine

if TYPE_CHECKING:
    from basisbench.models.model import Model
    from basisbench_baselines.training.settings import Reading
    from basisbench_baselines.training.text import Text

CARD, PAGE = "card.json", "README.md"


def write_card(
    out: Path,
    render: Callable[[Mapping[str, Any]], str],
    *,
    fingerprint: str,
    command: str,
    model: Model,
    text: Text,
    settings: Reading,
    state: Mapping[str, Any],
) -> None:
    """Write the card of a training or a tuning as it stands, as JSON and as a page.

    Args:
        out: folder of what is trained.
        render: makes the page of the card.
        fingerprint: digest of everything that shapes the weights.
        command: what was typed.
        model: the model that was given.
        text: what it read.
        settings: everything that shaped the weights.
        state: seconds, runs, what was measured at each snapshot and at the end, and, of dictionaries, the tokens that
            they were trained on.
    """
    card: dict[str, Any] = {
        "fingerprint": fingerprint,
        "command": command,
        "model": {
            "name": model.name,
            "source": dict(model.sources) or model.spec.path,
            "dtype": str(model.dtype).removeprefix("torch."),
            "weights_sha256": model.weights_hash,
            **({"file": asdict(model.file)} if model.file else {}),
        },
        "text": {"source": text.source, "digest": text.digest},
        "settings": asdict(settings),
        "machine": describe_machine(),
        "seconds": state["seconds"],
        "runs": state["runs"],
        **({"trained_on": state["tokens"]} if "tokens" in state else {}),
        "measured": state["measured"],
    }
    write_json(out / CARD, card)
    write_whole(out / PAGE, render(card))


def dictionaries_page(card: Mapping[str, Any]) -> str:
    """Return the card of dictionaries as Markdown."""
    settings, model = card["settings"], card["model"]
    kinds = ", ".join(settings["kinds"])
    lines = [
        f"# Dictionaries for {model['name']}: {kinds} at {settings['site']}",
        "",
        "Written by `basisbench train`; `card.json` holds the same numbers and more. SAELens loads every folder",
        "(`SAE.load_from_disk`), circuit-tracer `clt`; `basisbench run --basis 'sae:FOLDER/KIND'` (`clt:FOLDER/clt`)",
        "runs them.",
        "",
        *([f"- Command: `{card['command']}`"] if card["command"] else []),
        f"- Model: {model['name']} in {model['dtype']}, weights {model['weights_sha256'][:16]}",
        f"- Text: {card['text']['source']}; {settings['tokens']:,} tokens in contexts of {settings['context']}, "
        f"{card['trained_on']:,} of them trained on (first positions and BOS are left out)",
        f"- Width {settings['width']}, k {settings['k']}, seed {settings['seed']}, steps of about "
        f"{settings['batch_tokens']} tokens, learning rate {settings['learning_rate']}",
        f"- {card['seconds']:.0f} s on {card['machine']['processor']}, runs that contributed: {card['runs']}",
        "",
        "On held-out text, without first positions and BOS: fraction of variance unexplained (FVU), active units per",
        f"token (L0), units that are silent on all of its "
        f"{settings['held_out_contexts'] * settings['context']:,} tokens. Dead: silent in training for "
        f"{settings['dead_after_steps']} steps.",
        "Published dictionaries are trained on billions of tokens: these do not stand for them.",
        "",
        "| after tokens | dictionary | FVU | L0 | silent | dead |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {part['tokens']:,} | {name} | {row['fvu']:.4f} | {row['l0']:.1f} | {row['silent']} | {row['dead']} |"
            for part in card["measured"].values()
            for name, row in part["dictionaries"].items()
        ),
        "",
    ]
    return "\n".join(lines)


def tuning_page(card: Mapping[str, Any]) -> str:
    """Return the card of a tuning as Markdown: the checkpoints, and how far they moved."""
    settings, model, measured = card["settings"], card["model"], card["measured"]
    held_out = settings["held_out_contexts"] * (settings["context"] - 1)
    before = next(iter(measured.values()))["loss_before"]
    lines = [
        f"# {model['name']}, fine-tuned",
        "",
        "Written by `basisbench tune`; `card.json` holds the same numbers and more. Every folder is a checkpoint in",
        "Hugging Face's format, which `basisbench run --model NAME=FOLDER` runs; `dictionaries`, where it is there,",
        "holds those of the model before tuning.",
        "",
        *([f"- Command: `{card['command']}`"] if card["command"] else []),
        f"- Model: {model['name']} in {model['dtype']}, weights {model['weights_sha256'][:16]}",
        f"- Text: {card['text']['source']}; contexts of {settings['context']} tokens, steps of about "
        f"{settings['batch_tokens']} tokens",
        f"- AdamW, learning rate {settings['learning_rate']:g} after {settings['warmup_steps']} steps of warm-up, no "
        f"weight decay, gradients clipped to {settings['gradient_norm']:g}, seed {settings['seed']}",
        f"- {card['seconds']:.0f} s on {card['machine']['processor']}, runs that contributed: {card['runs']}",
        "",
        f"On {held_out:,} tokens of held-out text: next-token loss, and how far predictions have moved from those of",
        "the model before tuning, KL(before || after). Both in nats per token.",
        "",
        "| after tokens | loss | KL |",
        "| --- | --- | --- |",
        f"| 0 | {before:.4f} | 0 |",
        *(f"| {row['tokens']:,} | {row['loss']:.4f} | {row['kl']:.4f} |" for row in measured.values()),
        "",
    ]
    return "\n".join(lines)
