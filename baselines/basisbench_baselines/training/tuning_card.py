"""The card beside the checkpoints of a tuning: how they came to be and how far they moved, as JSON and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basisbench.results.record import write_whole
from basisbench_baselines.training.card import CARD, PAGE, describe_model
from basisbench_baselines.training.checkpoint import write_json
from basisbench_baselines.training.machine import describe_machine

if TYPE_CHECKING:
    from basisbench.models.model import Model
    from basisbench_baselines.training.settings import TuningSettings
    from basisbench_baselines.training.text import Text


def write_tuning_card(
    out: Path,
    *,
    fingerprint: str,
    command: str,
    model: Model,
    text: Text,
    settings: TuningSettings,
    state: Mapping[str, Any],
) -> None:
    """Write the card of a tuning as it stands.

    Args:
        out: folder of the checkpoints.
        fingerprint: digest of everything that shapes the weights.
        command: what was typed.
        model: the model that it began from.
        text: what it read.
        settings: of the tuning.
        state: seconds, runs, and what was measured at each checkpoint.
    """
    card: dict[str, Any] = {
        "fingerprint": fingerprint,
        "command": command,
        "model": describe_model(model),
        "text": {"source": text.source, "digest": text.digest},
        "settings": asdict(settings),
        "machine": describe_machine(),
        "seconds": state["seconds"],
        "runs": state["runs"],
        "measured": state["measured"],
    }
    write_json(out / CARD, card)
    write_whole(out / PAGE, render(card))


def render(card: Mapping[str, Any]) -> str:
    """Return the card as Markdown."""
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
