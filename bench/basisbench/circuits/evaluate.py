"""From kept nodes to the metric: many circuits of one aligned group, several to a batch.

Rows of a batch are circuits times pairs, so that short prompts fill the processor. What a circuit's value is
does not depend on how circuits are grouped into batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from basisbench.attribution.batch import columns_of, narrow_head
from basisbench.circuits.ablation import ablation_edits
from basisbench.circuits.circuit import Keep, Reference
from basisbench.models.batching import MemoryExhaustedError, exhausted, is_out_of_memory, release
from basisbench.models.hooks import Edit, Place
from basisbench.protocols import StreamedBasis, UnitwiseBasis

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.attribution.batch import Batch
    from basisbench.circuits.fast.shared_work import Shortcut
    from basisbench.models.model import Model
    from basisbench.protocols import Basis

_BATCH_BYTES = {"cpu": 4 * 2**20}
_DEVICE_BATCH_BYTES = 256 * 2**20
"""How large the widest activation of one pass may be: on a CPU it should stay in its caches (measured on the pocket
model: 512 tokens to a pass take 1.2 times as long as 2048, and 8192 take 1.2 times as long too), on a device it should
be large. Circuits are stacked up to this size, so that memory does not grow with the number of circuits."""

_PASSES_SHARED = 4
"""How many times as many tokens a single circuit of a dictionary may take to a pass."""

_STREAMED = {"cpu": 64}
_DEVICE_STREAMED = 4
"""How many times as many tokens a pass holds where each one reads weights anew (`protocols.StreamedBasis`)."""


@dataclass(frozen=True, eq=False)
class CircuitValues:
    """What was measured for each circuit on each pair.

    Attributes:
        metric: answer logit minus foil logit.
        divergence: KL(full model || circuit) over the vocabulary at the last position, in nats; None when
            no full model's logits were given.
    """

    metric: Float[Tensor, "circuit pair"]
    divergence: Float[Tensor, "circuit pair"] | None


def evaluate_circuits(
    model: Model,
    basis: Basis,
    batch: Batch,
    reference: Reference,
    keep: Callable[[int, int], Keep],
    circuits: int,
    *,
    shortcut: Shortcut | None = None,
    full_logits: Float[Tensor, "pair vocab"] | None = None,
    tokens_per_batch: int | None = None,
) -> CircuitValues:
    """Evaluate circuits on every pair of one aligned group of the evaluation split.

    Args:
        model: the model.
        basis: the basis whose nodes are kept or replaced.
        batch: the group.
        reference: values of the nodes that are not kept.
        keep: gives the kept nodes of circuits `start` to `stop`.
        circuits: how many circuits there are, at least 1.
        shortcut: what the passes of this group share; None runs every pass in full.
        full_logits: the unhooked model's logits, to measure the divergence from it.
        tokens_per_batch: bound on rows times positions in one pass, one prompt at least. By default as many as make
            good use of the processor.

    Raises:
        MemoryExhaustedError: one circuit on one prompt does not fit into memory. Before that, passes become smaller
            and the evaluation goes on from the circuit it has reached.
    """
    import torch

    pairs = len(batch.clean)
    tokens = batch.clean if shortcut is None else shortcut.tokens
    limit = model.batching.tokens("curve", tokens_per_batch or default_tokens_per_batch(model, basis))
    # Every pass of a dictionary picks its units anew, which more prompts should share.
    picks = isinstance(basis, UnitwiseBasis) and not _streams(basis) and "curve" not in model.batching.bounds
    most = limit * (_PASSES_SHARED if picks else 1)
    passes = math.ceil(pairs / max(1, most // tokens.shape[1]))
    if passes > 1:
        parts = [
            evaluate_circuits(
                model,
                basis,
                batch.part(chosen),
                reference.part(chosen),
                keep,
                circuits,
                shortcut=None if shortcut is None else shortcut.part(chosen),
                full_logits=None if full_logits is None else full_logits[chosen],
                tokens_per_batch=tokens_per_batch,
            )
            for chosen in _evenly(pairs, passes)
        ]
        divergence = [part.divergence for part in parts if part.divergence is not None]
        return CircuitValues(
            torch.cat([part.metric for part in parts], 1), torch.cat(divergence, 1) if divergence else None
        )
    passing = _Passing(model, basis, batch, reference, keep, shortcut, full_logits)
    together = max(1, limit // tokens.numel())
    done: list[CircuitValues] = []
    start = 0
    while start < circuits:
        count = min(together, circuits - start)
        size, length = count * tokens.numel(), tokens.shape[1]
        model.batching.note("curve", size, length)
        try:
            done.append(passing.values(start, count))
            start += count
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler, whose traceback holds what the failed pass has made.
        if size == length:
            raise MemoryExhaustedError(exhausted(model, f"circuits of basis '{basis.name}'", length))
        model.batching.halve("curve", size, length)
        release(model)
        if count == 1:  # what is left is done with fewer prompts to a pass
            rest = evaluate_circuits(
                model,
                basis,
                batch,
                reference,
                _from(keep, start),
                circuits - start,
                shortcut=shortcut,
                full_logits=full_logits,
                tokens_per_batch=tokens_per_batch,
            )
            return _stacked([*done, rest])
        together = count // 2
    return _stacked(done)


@dataclass(frozen=True, eq=False)
class _Passing:
    """Circuits of one group, ready to be run in passes of several."""

    model: Model
    basis: Basis
    batch: Batch
    reference: Reference
    keep: Callable[[int, int], Keep]
    shortcut: Shortcut | None
    full_logits: Tensor | None

    def values(self, start: int, count: int) -> CircuitValues:
        """Run circuits `start` to `start + count` in one pass."""
        import torch

        model, shortcut = self.model, self.shortcut
        pairs = len(self.batch.clean)
        tokens = self.batch.clean if shortcut is None else shortcut.tokens
        columns = columns_of(self.batch) if shortcut is not None and self.full_logits is None else None
        read = self.batch if columns is None else columns.batch
        with torch.inference_mode():
            edits = ablation_edits(
                model,
                self.basis,
                self.reference,
                self.keep(start, start + count),
                pairs,
                positions=tokens.shape[1],
                last_only=shortcut is not None,
                sliced=shortcut is not None,
                first_units=None if shortcut is None else shortcut.first,
            )
            rows = tokens.repeat(count, 1)
            past = None
            with ExitStack() as stack:
                if shortcut is not None:
                    edits = _joined(shortcut.edits(), edits)
                    past = shortcut.prefix.cache(count * pairs)
                    stack.enter_context(shortcut.constant_modules(count))
                if columns is not None:
                    stack.enter_context(narrow_head(model.quick_body.get_submodule(model.head), columns.words))
                logits = model.logits(rows, edits, past=past, packed=True)
            metric = read.repeated(count).metric(logits).unflatten(0, (count, pairs))
            divergence = None
            if self.full_logits is not None:
                divergence = _divergence(self.full_logits, logits.unflatten(0, (count, pairs)))
        return CircuitValues(metric, divergence)


def _stacked(parts: Sequence[CircuitValues]) -> CircuitValues:
    """Put the values of successive circuits below each other."""
    import torch

    divergence = [part.divergence for part in parts if part.divergence is not None]
    return CircuitValues(torch.cat([part.metric for part in parts]), torch.cat(divergence) if divergence else None)


def _from(keep: Callable[[int, int], Keep], first: int) -> Callable[[int, int], Keep]:
    """Count circuits from a later one."""
    return lambda start, stop: keep(first + start, first + stop)


def _evenly(count: int, parts: int) -> list[slice]:
    """Cut `count` things into parts of nearly one size."""
    ends = [round(part * count / parts) for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(ends)]


def default_tokens_per_batch(model: Model, basis: Basis) -> int:
    """Return how many tokens one pass holds, for circuits to be stacked."""
    widest = max(int(model.bridge.cfg.d_mlp), int(model.bridge.cfg.d_model)) * model.dtype.itemsize
    place = model.device.type
    more = _STREAMED.get(place, _DEVICE_STREAMED) if _streams(basis) else 1
    return more * _BATCH_BYTES.get(place, _DEVICE_BATCH_BYTES) // widest


def _streams(basis: Basis) -> bool:
    return isinstance(basis, StreamedBasis) and basis.streams


def _joined(first: Mapping[Place, Edit], then: Mapping[Place, Edit]) -> Mapping[Place, Edit]:
    """Return both edits at every place, one after the other where a place has two."""

    def both(one: Edit, other: Edit) -> Edit:
        def edit(activation: Tensor) -> Tensor | None:
            first = one(activation)
            second = other(activation if first is None else first)
            return first if second is None else second

        return edit

    shared = {place: both(first[place], then[place]) for place in first.keys() & then.keys()}
    return {**first, **then, **shared}


def _divergence(
    full: Float[Tensor, "pair vocab"], circuits: Float[Tensor, "circuit pair vocab"]
) -> Float[Tensor, "circuit pair"]:
    expected, found = full.log_softmax(-1), circuits.log_softmax(-1)
    # Rounding can leave a divergence of zero a little below it.
    return (expected.exp() * (expected - found)).sum(-1).clamp_min(0)
