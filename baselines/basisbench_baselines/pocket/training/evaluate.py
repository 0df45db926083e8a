"""Measure the pocket model on the tasks, and its dictionaries on held-out documents.

Accuracy of a task: share of its evaluation pairs in which the mean logit of the answers exceeds that of the foils
at the last position. Chance is one half. Training holds out the words of these pairs (see `corpus.stream`).

Statistics of a dictionary, over the real tokens of held-out documents:

- L0: mean number of active units per token; BOS left out.
- FVU: ``sum ||y - y'||^2 / sum ||y - mean y||^2``, y the activation at the write site; BOS left out (and a
  second value with BOS).
- Loss: next-token cross-entropy of the model with the write activation of that one site replaced, at every
  position, by the reconstruction (spliced), by zero, or by its mean over held-out tokens.
- Loss recovered: ``(zero - spliced) / (zero - clean)``; the second variant has the mean in place of zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from basisbench.models.hooks import edited, observed
from basisbench_baselines.pocket.training.activations import DictionarySite, place_of
from basisbench_baselines.pocket.training.dictionaries import collect_activations
from basisbench_baselines.pocket.training.dictionary_trainer import DictionaryWeights
from basisbench_baselines.pocket.training.documents import EncodedDocuments
from basisbench_baselines.training.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from basisbench.types import Pairs, PairSet

REQUIRED_ACCURACY: Mapping[str, float] = {
    "ioi": 0.97,
    "sva_simple": 0.97,
    "sva_nounpp": 0.97,
    "sva_rc": 0.97,
    "sva_within_rc": 0.97,
    "user_gender": 0.95,
    "user_occupation": 0.95,
    "user_country": 0.95,
    "user_age": 0.95,
}
"""Lowest accuracy on held-out evaluation pairs that a shipped model may have, by task."""

MAXIMUM_L0, MAXIMUM_FVU, MINIMUM_RECOVERED = 32.0, 0.05, 0.97
"""Bounds that every shipped dictionary should keep."""

_ROWS_AT_ONCE = 128
_TOKENS_AT_ONCE = 16384


@dataclass(frozen=True, eq=False)
class Rebuilder:
    """How the activation at one site is rebuilt, whatever the kind of dictionary.

    Attributes:
        reads: hooks whose activations it needs; the first one is the site's own.
        units: units at the site.
        rebuild: takes these activations, in the same order; returns the activations of the site's own units and the
            reconstruction.
    """

    reads: tuple[str, ...]
    units: int
    rebuild: Callable[..., tuple[Float[Tensor, "*b unit"], Float[Tensor, "*b d_write"]]]

    @classmethod
    def of(cls, site: DictionarySite, dictionary: DictionaryWeights) -> Rebuilder:
        """Return that of a dictionary of one layer."""

        def rebuild(x: Tensor) -> tuple[Tensor, Tensor]:
            f = dictionary.encode(x)
            return f, dictionary.decode(f)

        return cls((site.read,), dictionary.decoder.shape[0], rebuild)


@dataclass(frozen=True)
class DictionaryStatistics:
    """What one dictionary does on held-out documents; the module's text defines every number.

    Attributes:
        l0: active units per token, BOS left out.
        fvu: fraction of variance unexplained, BOS left out.
        fvu_with_bos: the same with BOS.
        silent_units: units that are active on no held-out token.
        units: units of the dictionary.
        loss_clean: loss of the untouched model, nats per token.
        loss_spliced: loss with the reconstruction in place.
        loss_zero: loss with zeros in place.
        loss_mean: loss with the mean in place.
    """

    l0: float
    fvu: float
    fvu_with_bos: float
    silent_units: int
    units: int
    loss_clean: float
    loss_spliced: float
    loss_zero: float
    loss_mean: float

    @property
    def recovered(self) -> float:
        """Loss recovered against zero ablation."""
        return (self.loss_zero - self.loss_spliced) / (self.loss_zero - self.loss_clean)

    @property
    def recovered_from_mean(self) -> float:
        """Loss recovered against mean ablation."""
        return (self.loss_mean - self.loss_spliced) / (self.loss_mean - self.loss_clean)

    @property
    def within_bounds(self) -> bool:
        """Whether L0, FVU and loss recovered all keep their bounds."""
        good = self.l0 <= MAXIMUM_L0 and self.fvu <= MAXIMUM_FVU
        return good and self.recovered >= MINIMUM_RECOVERED

    def to_json(self) -> dict[str, float | int | bool]:
        """Return the numbers, rounded, for the provenance card."""
        numbers = {
            "l0": round(self.l0, 2),
            "fraction_of_variance_unexplained": round(self.fvu, 5),
            "fraction_of_variance_unexplained_with_bos": round(self.fvu_with_bos, 5),
            "loss_recovered_from_zero": round(self.recovered, 5),
            "loss_recovered_from_mean": round(self.recovered_from_mean, 5),
            "loss_clean": round(self.loss_clean, 5),
            "loss_spliced": round(self.loss_spliced, 5),
            "loss_zero": round(self.loss_zero, 5),
            "loss_mean": round(self.loss_mean, 5),
        }
        return numbers | {
            "silent_units": self.silent_units,
            "units": self.units,
            "within_bounds": self.within_bounds,
        }


def evaluation_pairs(tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> dict[str, PairSet]:
    """Return `count` held-out evaluation pairs of each task.

    Raises:
        TaskError: a task has no usable pairs for this tokenizer.
    """
    from basisbench.pairs.alignment import load_splits
    from basisbench.registry import load_registry

    registry = load_registry()
    return {
        name: load_splits(registry.get("task", name), tokenizer, attribution=count, evaluation=count, seed=seed)[1]
        for name in REQUIRED_ACCURACY
    }


@torch.no_grad()
def task_accuracies(model: PreTrainedModel, pairs: Mapping[str, PairSet]) -> dict[str, float]:
    """Return the share of pairs whose answers have the higher mean logit, by task."""
    return {
        name: sum(float(_correct(model, group).sum()) for group in pair_set) / pair_set.pair_count
        for name, pair_set in pairs.items()
    }


def _correct(model: PreTrainedModel, group: Pairs) -> Tensor:
    hidden = model.base_model(input_ids=torch.from_numpy(np.asarray(group.clean)).long(), use_cache=False)
    logits = model.lm_head(hidden.last_hidden_state[:, -1]).float()
    answers, foils = (torch.from_numpy(np.asarray(ids)).long() for ids in (group.answers, group.foils))
    better: Tensor = logits.gather(1, answers).mean(1) > logits.gather(1, foils).mean(1)
    return better


@torch.no_grad()
def document_loss(model: PreTrainedModel, documents: EncodedDocuments) -> float:
    """Return the mean next-token loss over the real tokens of documents, in nats."""
    total, tokens = 0.0, 0
    for ids, lengths in _padded_batches(documents):
        real = torch.arange(1, ids.shape[1]) < lengths[:, None]
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden[real]).float()
        total += float(torch.nn.functional.cross_entropy(logits, ids[:, 1:][real], reduction="sum"))
        tokens += int(real.sum())
    return total / tokens


def _padded_batches(documents: EncodedDocuments) -> Iterator[tuple[Tensor, Tensor]]:
    order = np.argsort(documents.lengths, kind="stable")
    for start in range(0, len(order), _ROWS_AT_ONCE):
        yield documents.rows(order[start : start + _ROWS_AT_ONCE], pad=0)


@contextmanager
def splice(model: PreTrainedModel, site: DictionarySite, dictionary: DictionaryWeights | Rebuilder) -> Iterator[None]:
    """Replace the write activation by the dictionary's reconstruction, at every position."""
    rebuilder = dictionary if isinstance(dictionary, Rebuilder) else Rebuilder.of(site, dictionary)
    reads = {hook: place_of(model, hook) for hook in rebuilder.reads}

    # Observed first, so that what a dictionary reads is there when its write site is reached, the same site or a later.
    with observed(model, reads) as seen:

        def reconstruct(_: Tensor) -> Tensor:
            return rebuilder.rebuild(*(seen.pop(hook) for hook in rebuilder.reads))[1]

        with edited(model, {place_of(model, site.write): reconstruct}):
            yield


def dictionary_statistics(
    model: PreTrainedModel,
    dictionaries: Mapping[DictionarySite, DictionaryWeights | Rebuilder],
    documents: EncodedDocuments,
    progress: Progress,
) -> dict[DictionarySite, DictionaryStatistics]:
    """Measure every dictionary on held-out documents."""
    activations = collect_activations(model, list(dictionaries), documents, 0, len(documents))
    # The first token of each document, in the order in which collect_activations visits them.
    lengths = np.sort(documents.lengths)
    bos = torch.zeros(len(documents.tokens), dtype=torch.bool)
    bos[torch.from_numpy(np.cumsum(lengths) - lengths)] = True
    clean = document_loss(model, documents)
    ablated: dict[str, tuple[float, float]] = {}
    found: dict[DictionarySite, DictionaryStatistics] = {}
    with progress.bar("statistics", len(dictionaries)) as bar:
        for site, dictionary in dictionaries.items():
            rebuilder = dictionary if isinstance(dictionary, Rebuilder) else Rebuilder.of(site, dictionary)
            y = activations[site.write]
            if site.write not in ablated:
                ablated[site.write] = (
                    _constant_loss(model, documents, site.write, torch.zeros_like(y[0])),
                    _constant_loss(model, documents, site.write, y[~bos].mean(0)),
                )
            zero, mean = ablated[site.write]
            with splice(model, site, rebuilder):
                spliced = document_loss(model, documents)
            l0, fvu, with_bos, silent = _reconstruction(
                rebuilder, [activations[hook] for hook in rebuilder.reads], y, bos
            )
            found[site] = DictionaryStatistics(
                l0=l0,
                fvu=fvu,
                fvu_with_bos=with_bos,
                silent_units=silent,
                units=rebuilder.units,
                loss_clean=clean,
                loss_spliced=spliced,
                loss_zero=zero,
                loss_mean=mean,
            )
            bar.update()
    return found


def _constant_loss(model: PreTrainedModel, documents: EncodedDocuments, hook: str, value: Tensor) -> float:
    with edited(model, {place_of(model, hook): value.expand_as}):
        return document_loss(model, documents)


def _reconstruction(
    rebuilder: Rebuilder, x: Sequence[Tensor], y: Tensor, bos: Tensor
) -> tuple[float, float, float, int]:
    """Return L0, FVU without and with BOS, and the number of silent units."""
    errors: list[Tensor] = []
    counts: list[Tensor] = []
    fired = torch.zeros(rebuilder.units, dtype=torch.bool)
    for start in range(0, len(y), _TOKENS_AT_ONCE):
        f, output = rebuilder.rebuild(*(part[start : start + _TOKENS_AT_ONCE] for part in x))
        errors.append((y[start : start + _TOKENS_AT_ONCE] - output).double().square().sum(-1))
        counts.append((f > 0).sum(-1))
        fired |= (f > 0).any(0)
    error, count = torch.cat(errors), torch.cat(counts)

    def fvu(chosen: Tensor) -> float:
        target = y[chosen].double()
        return float(error[chosen].sum() / (target - target.mean(0)).square().sum())

    l0 = float(count[~bos].double().mean())
    return l0, fvu(~bos), fvu(torch.ones_like(bos)), int((~fired).sum())
