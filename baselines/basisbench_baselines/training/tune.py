"""Fine-tune a language model, and leave it as it is after some counts of tokens: `basisbench tune`.

1. A step takes the next contexts of the text: next-token loss, AdamW without weight decay, gradients clipped, a rate
   that stays after a linear warm-up. Dropout is off. So a snapshot is what a shorter tuning would have ended with.
2. `OUT/.tuning` holds the newest checkpoint: weights, optimizer and counters in one file. A tuning that is killed goes
   on from there, and ends with the same weights; one that is asked to end (Ctrl-C, SIGTERM) writes one between two
   steps. A finished one removes the folder.
3. `OUT/TOKENS` is a checkpoint in Hugging Face's format, the last one included, with what it was tuned on in its
   configuration; `OUT/dictionaries` are those that the model brought along, unchanged. Each checkpoint is measured on
   held-out text: its loss, and how far its predictions have moved. The card is written anew with each of them.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from basisbench.errors import BasisBenchError
from basisbench.models.model import TUNING
from basisbench_baselines.training.card import tuning_page
from basisbench_baselines.training.checkpoint import (
    load_state,
    optimizer_tensors,
    replace_folder,
    restore_optimizer,
    save_state,
    with_prefix,
    without_prefix,
)
from basisbench_baselines.training.progress import Bar, Progress
from basisbench_baselines.training.resumable import Resumable

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench_baselines.training.settings import TuningSettings
    from basisbench_baselines.training.text import Packed

WORK, DICTIONARIES = ".tuning", "dictionaries"


def tune(
    model: Model,
    text: Packed,
    settings: TuningSettings,
    out: Path,
    *,
    command: str = "",
    progress: bool = True,
    checkpoint_seconds: float = 300.0,
) -> None:
    """Fine-tune a copy of a model into a folder, going on from a checkpoint in it.

    Args:
        model: the model, in float32; it stays as it is.
        text: what it reads.
        settings: everything that shapes the weights.
        out: the folder.
        command: what was typed, for the card.
        progress: whether to show progress on standard error.
        checkpoint_seconds: time between two checkpoints.

    Raises:
        BasisBenchError: the folder holds something else, or another tuning; the model cannot be written as a
            checkpoint; or its loss is no number any more.
    """
    Tuning(model, text, settings, out, command, Progress(progress), checkpoint_seconds).finish()


class Tuning(Resumable):
    """One tuning: the model as it is now, and how far it is; arguments are those of `Resumable`."""

    settings: TuningSettings
    work_folder, done = WORK, "tuned"

    def __init__(
        self,
        model: Model,
        text: Packed,
        settings: TuningSettings,
        out: Path,
        command: str = "",
        progress: Progress | None = None,
        checkpoint_seconds: float = 300.0,
    ) -> None:
        super().__init__(model, text, settings, out, command, progress, checkpoint_seconds)
        self.checkpoint = self.work / "state.safetensors"
        self.wanted = sorted({*settings.snapshots, settings.tokens})
        self.body = copy.deepcopy(model.body).requires_grad_(True)  # in evaluation mode, as it was
        self.optimizer = torch.optim.AdamW(self.body.parameters(), lr=settings.learning_rate, weight_decay=0.0)
        self.state |= {"step": 0}

    @property
    def last(self) -> str:
        """The last checkpoint, by its tokens."""
        return str(self.settings.tokens)

    def run(self) -> None:
        """Do what is left to do."""
        self._check_written_form()
        super().run()

    def _advance(self, bar: Bar) -> None:
        while self.state["step"] < self.settings.steps:
            with self.stopping.held():
                self._step(bar)
            self._write_snapshots()
            self._checkpoint_if_due()

    def _write_end(self) -> None:
        """Write nothing: the last checkpoint is one of the snapshots."""

    def _tokens_done(self) -> int:
        return self.settings.tokens_in(self.state["step"] * self.settings.step_contexts)

    def _step(self, bar: Bar) -> None:
        step, size = self.state["step"], self.settings.step_contexts
        rows = self.model.tokens(self.text.rows(range(step * size, min((step + 1) * size, self.settings.contexts))))
        loss = self.body(input_ids=rows, labels=rows, use_cache=False).loss
        if not bool(loss.isfinite()):
            raise BasisBenchError(
                f"--learning-rate {self.settings.learning_rate:g}: the loss is no number any more after "
                f"{self._tokens_done():,} tokens; give a smaller rate and another --out"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.body.parameters(), self.settings.gradient_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        before = self._tokens_done()
        self.state["step"] += 1
        bar.set_postfix_str(f"loss {float(loss.detach()):.3f}", refresh=False)
        bar.update(self._tokens_done() - before)

    def _write_snapshots(self) -> None:
        for tokens in self.wanted:
            if tokens <= self._tokens_done() and str(tokens) not in self.state["measured"]:
                with self.stopping.held():
                    self._write(str(tokens))

    def _write(self, name: str) -> None:
        """Write the model as it is now, measure it on held-out text, and write the card."""
        self._take_time()
        held_out = self.model.tokens(self.text.rows(range(-self.settings.held_out_contexts, 0)))
        measured = measure(self.model.body, self.body, held_out, self.settings.step_contexts)
        told = {
            "start": self.model.weights_hash,
            "tokens": self._tokens_done(),
            "text": self.text.source,
            "text_digest": self.text.digest,
            "digest": self.fingerprint,
        }
        replace_folder(self.out / name, partial(save_checkpoint, self.body, self.model.tokenizer, tuning=told))
        for basis, folder in self.model.spec.dictionaries.items():
            if not (place := self.out / DICTIONARIES / basis).exists():
                replace_folder(place, partial(_copy_folder, folder))
        self._note(name, {"tokens": self._tokens_done(), **measured})
        self.progress.line(
            f"{self.out / name}: written after {self._tokens_done():,} tokens; on held-out text loss "
            f"{measured['loss']:.3f}, at first {measured['loss_before']:.3f}, KL {measured['kl']:.3f} nats per token"
        )

    def _check_written_form(self) -> None:
        """Refuse a model that would be another one when it is read again: not every GGUF file fits a configuration."""
        rows = self.model.tokens(self.text.rows([-1]))
        with torch.no_grad():
            here = self.body(input_ids=rows, use_cache=False).logits
            again = written_form(self.body, {}).to(self.model.device)(input_ids=rows, use_cache=False).logits
        if float((here - again).abs().max()) > 1e-3 * float(here.abs().max()):
            raise BasisBenchError(
                f"model '{self.model.name}': as a checkpoint in Hugging Face's format it would compute something else; "
                "give the checkpoint that it was made from"
            )

    def _page(self, card: Mapping[str, Any]) -> str:
        return tuning_page(card)

    def _save(self) -> None:
        tensors = with_prefix("model", dict(self.body.named_parameters()))  # tied weights once
        tensors |= with_prefix("optimizer", optimizer_tensors(self.optimizer))
        save_state(self.checkpoint, tensors, self.state)

    def _restore(self) -> None:
        saved = load_state(self.checkpoint)
        if saved is None:
            return
        tensors, state = saved
        self.state |= state
        kept = without_prefix("model", tensors)
        with torch.no_grad():
            for name, parameter in self.body.named_parameters():
                parameter.copy_(kept[name])
        restore_optimizer(self.optimizer, without_prefix("optimizer", tensors))
        self.progress.line(f"{self.out}: going on after {self._tokens_done():,} tokens")


@torch.no_grad()
def measure(before: Any, after: Any, rows: Int[Tensor, "row pos"], at_once: int) -> dict[str, float]:
    """Return what tuning has changed, on text: means over all tokens but the first of each context, in nats.

    Args:
        before: the model that the tuning began from.
        after: the tuned model.
        rows: contexts.
        at_once: contexts of a pass.

    Returns:
        `loss` and `loss_before`: next-token loss of both; `kl`: KL(before || after) over the vocabulary.
    """
    sums = {"loss": 0.0, "loss_before": 0.0, "kl": 0.0}
    for part in rows.split(at_once):
        old, new = (each(input_ids=part, use_cache=False).logits[:, :-1].log_softmax(-1) for each in (before, after))
        for name, logs in (("loss", new), ("loss_before", old)):
            sums[name] -= float(logs.gather(2, part[:, 1:, None]).double().sum())
        sums["kl"] += float((old.exp() * (old - new)).sum(-1).double().sum())
    return {name: value / rows[:, 1:].numel() for name, value in sums.items()}


def written_form(body: Any, tuning: Mapping[str, object]) -> Any:
    """Return a model as its checkpoint will be read: a copy on the processor whose configuration is plain.

    A model that was read from a GGUF file has dequantised weights and a configuration that calls them quantised.

    Args:
        body: the model.
        tuning: what it was tuned on, for its configuration.
    """
    config = copy.deepcopy(body.config)
    vars(config).pop("quantization_config", None)
    setattr(config, TUNING, dict(tuning))
    form = type(body)(config).eval()
    form.load_state_dict(body.state_dict())
    return form


def save_checkpoint(body: Any, tokenizer: Any, folder: Path, *, tuning: Mapping[str, object]) -> None:
    """Save a model and its tokenizer in Hugging Face's format.

    Args:
        body: the model.
        tokenizer: its tokenizer.
        folder: where to.
        tuning: what it was tuned on, for its configuration.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    written_form(body, tuning).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _copy_folder(source: Path, to: Path) -> None:
    shutil.copytree(source, to)
