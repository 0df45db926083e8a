"""Compares a record with a re-run of its cell, within stated tolerances.

1. F(M), F(0), and the metric of circuit and complement at every size that was evaluated again: value by value, and as
   means over examples, which is what every summary is made of.
2. The top nodes and their scores: whether the ranking is the same, as far as a record tells.
3. Whatever else follows from the cell: groups, counts, node counts, divergence, random halves, fit of the dictionary,
   forward-equivalents. Seconds and memory depend on the machine and are not compared.

Deviations are absolute below 1 and relative above. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from basisbench.results.metrics import sizes_grid
from basisbench.results.record import Identities, Record
from basisbench.results.record_fields import TopNode
from basisbench.submissions.verification_fields import Deviation, RankingAgreement, Tolerance, VerifiedCell

_FINE = Tolerance(value=1e-3, share=0.02, mean=2e-3, most=0.5, tied_mean=1e-2, tied_sizes=0.25, score=1e-2)
_HALF = Tolerance(value=5e-2, share=0.02, mean=2e-2, most=1.0, tied_mean=0.1, tied_sizes=0.25, score=5e-2)
TOLERANCES: Mapping[str, Tolerance] = {"float64": _FINE, "float32": _FINE, "bfloat16": _HALF, "float16": _HALF}
"""By dtype of the model's weights; `results/README.md` says how they were chosen."""

_COUNTS = 0.01
"""How far node counts and the guard may lie apart, relatively: near ties change places."""

_PROBLEMS = 20
"""How many are listed at most."""

_ROUNDING = 1e-5
"""How far a fraction of variance that is nearly 0 may lie apart."""

_COST = 1e-3
_COST_BEFORE = 1.5
"""How far forward-equivalents may lie apart, relatively: from records of this version, and from those of another, which
may charge shared work otherwise (before 0.4.0 what a cell was charged hung on the cells before it, a factor of two)."""


def tolerance_for(dtype: str) -> Tolerance:
    """Return the tolerance for weights of a dtype, for example "float32"."""
    return TOLERANCES.get(dtype, _HALF)


def compare_identities(recorded: Record, here: Identities) -> tuple[str, ...]:
    """Return what the record was not made on, a line each; without any the cell can be re-run.

    Args:
        recorded: the record.
        here: digests of what a re-run would be made on.
    """
    problems = []
    for field, meaning in (
        ("model", "the model's weights"),
        ("dictionary", "the basis' trained weights"),
        ("data", "the tokenised pairs"),
    ):
        ours, theirs = getattr(here, field), getattr(recorded.identities, field)
        if ours != theirs:
            problems.append(
                f"identities.{field}: the record has {_short(theirs)}, here {meaning} give {_short(ours)}: not re-run"
            )
    return tuple(problems)


def refused(recorded: Record, here: Identities, dtype: str, problems: Sequence[str]) -> VerifiedCell:
    """Return the outcome for a record that was made on something else, or claims something impossible: no re-run."""
    return VerifiedCell(
        **_cell_fields(recorded, here, dtype),
        sizes=(),
        full=None,
        empty=None,
        circuit=None,
        complement=None,
        ranking=None,
        problems=tuple(problems),
        passed=False,
    )


def compare_records(recorded: Record, found: Record, here: Identities, tolerance: Tolerance) -> VerifiedCell:
    """Compare a record with a re-run of its cell, at the sizes of the re-run.

    Args:
        recorded: what was claimed.
        found: the re-run; its sizes are some of the grid of its nodes.
        here: digests of what the re-run was made on.
        tolerance: how far they may lie apart.
    """
    dtype = found.environment.dtype
    if recorded.curve.sizes != sizes_grid(found.counts.nodes_max):
        grid = f"the {found.counts.nodes_max} nodes of the re-run have others"
        return refused(recorded, here, dtype, [f"curve.sizes: end at {recorded.curve.sizes[-1]}, {grid}"])
    if len(found.endpoints.full) != len(recorded.endpoints.full):
        examples = f"{len(recorded.endpoints.full)} examples, the re-run has {len(found.endpoints.full)}"
        return refused(recorded, here, dtype, [f"endpoints.full: {examples}"])
    rows = [recorded.curve.sizes.index(size) for size in found.curve.sizes]
    sizes = found.curve.sizes
    full = _deviation(recorded.endpoints.full, found.endpoints.full, tolerance)
    empty = _deviation(recorded.endpoints.empty, found.endpoints.empty, tolerance)
    circuit, circuit_problems = _compare_rows("circuit", recorded, found, rows, tolerance)
    complement, complement_problems = _compare_rows("complement", recorded, found, rows, tolerance)
    ranking = _compare_ranking(recorded.top_nodes, found.top_nodes, tolerance)
    problems = [
        *compare_identities(recorded, here),
        *_endpoint_problems("endpoints.full", full, tolerance),
        *_endpoint_problems("endpoints.empty", empty, tolerance),
        *circuit_problems,
        *complement_problems,
        *_tied_problems(circuit, complement, sizes, tolerance),
        *_ranking_problems(ranking, tolerance),
        *_other_problems(recorded, found, rows, tolerance),
    ]
    return VerifiedCell(
        **_cell_fields(recorded, here, dtype),
        sizes=sizes,
        full=full,
        empty=empty,
        circuit=circuit,
        complement=complement,
        ranking=ranking,
        problems=tuple(problems[:_PROBLEMS]),
        passed=not problems,
    )


def _cell_fields(recorded: Record, here: Identities, dtype: str) -> dict[str, object]:
    cell, identities = recorded.cell, recorded.identities
    return {
        "cell_id": recorded.id,
        "model": cell.model,
        "task": cell.task,
        "basis": cell.basis,
        "method": cell.method,
        "basisbench": recorded.basisbench,
        "dtype": dtype,
        "same_model": here.model == identities.model,
        "same_dictionary": here.dictionary == identities.dictionary,
        "same_data": here.data == identities.data,
    }


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]


def _apart(recorded: object, found: object) -> Float[np.ndarray, "*shape"]:
    """Return how far numbers lie apart: relative where the recorded one is above 1, else absolute."""
    expected, values = np.asarray(recorded, dtype=np.float64), np.asarray(found, dtype=np.float64)
    apart: np.ndarray = np.abs(values - expected) / np.maximum(1.0, np.abs(expected))
    return apart


def _deviation(
    recorded: object,
    found: object,
    tolerance: Tolerance,
    sizes: Sequence[int] | None = None,
    tied: Sequence[int] = (),
) -> Deviation:
    """Say how far values lie apart, [example] or [size][example]."""
    expected, values = np.atleast_2d(np.asarray(recorded)), np.atleast_2d(np.asarray(found))
    apart = _apart(expected, values)
    row, example = np.unravel_index(int(apart.argmax()), apart.shape)
    return Deviation(
        values=apart.size,
        outside=int((apart > tolerance.value).sum()),
        tied=tuple(tied),
        largest=float(apart.max()),
        size=None if sizes is None else sizes[int(row)],
        example=int(example),
        mean=float(_apart(expected.mean(1), values.mean(1)).max()),
    )


def _compare_rows(
    name: str, recorded: Record, found: Record, rows: Sequence[int], tolerance: Tolerance
) -> tuple[Deviation, list[str]]:
    """Compare the metric of circuit or complement, size by size; return what is wrong besides."""
    sizes = found.curve.sizes
    expected = np.array([getattr(recorded.curve, name)[row] for row in rows])
    values = np.array(getattr(found.curve, name))
    apart, means = _apart(expected, values), _apart(expected.mean(1), values.mean(1))
    allowed = max(1, int(tolerance.share * expected.shape[1]))
    tied, problems = [], []
    for size, row, mean in zip(sizes, apart, means, strict=True):
        outside = int((row > tolerance.value).sum())
        if outside <= allowed and mean <= tolerance.mean and row.max() <= tolerance.most:
            continue
        # The ends hold no node, or all: nothing can change places there.
        if size not in (sizes[0], sizes[-1]) and row.max() <= tolerance.most and mean <= tolerance.tied_mean:
            tied.append(size)
            continue
        problems.append(
            f"curve.{name}: at size {size} {outside} of {len(row)} values deviate by more than {tolerance.value:g}, "
            f"the largest by {row.max():.2g} (example {row.argmax()}), and their mean by {mean:.2g}"
        )
    return _deviation(expected, values, tolerance, sizes, tied), problems


def _tied_problems(
    circuit: Deviation, complement: Deviation, sizes: Sequence[int], tolerance: Tolerance
) -> Iterator[str]:
    """Yield a line where more sizes lie a little off than near ties of scores explain."""
    tied = sorted({*circuit.tied, *complement.tied})
    allowed = max(1, int(tolerance.tied_sizes * len(sizes)))
    if len(tied) > allowed:
        yield (
            f"curve: at sizes {', '.join(map(str, tied))} values deviate by more than {tolerance.value:g}; nearly "
            f"equal scores explain {allowed} of {len(sizes)} sizes"
        )


def _endpoint_problems(place: str, deviation: Deviation, tolerance: Tolerance) -> Iterator[str]:
    """Yield what is wrong with F(M) or F(0), which depend on no ranking and no unit."""
    if deviation.outside or deviation.mean > tolerance.mean:
        yield (
            f"{place}: {deviation.outside} of {deviation.values} values deviate by more than {tolerance.value:g}, the "
            f"largest by {deviation.largest:.2g} (example {deviation.example}), and their mean by {deviation.mean:.2g}"
        )


def _compare_ranking(recorded: Sequence[TopNode], found: Sequence[TopNode], tolerance: Tolerance) -> RankingAgreement:
    """Compare top nodes; one that only a near tie pushed off the end of the list is not missing."""
    known = {_node(node): node.score for node in found}
    scale = max((abs(node.score) for node in recorded), default=0.0) or 1.0
    last = min(map(abs, known.values()), default=0.0)
    missing, deviation = 0, 0.0
    for node in recorded:
        if _node(node) in known:
            deviation = max(deviation, abs(known[_node(node)] - node.score) / scale)
        elif abs(node.score) > last + tolerance.score * scale:
            missing += 1
    if len({_node(node) for node in recorded}) < len(found):  # some were left out, or one is there twice
        missing += len(found) - len({_node(node) for node in recorded})
    return RankingAgreement(compared=len(recorded), missing=missing, score=deviation)


def _node(node: TopNode) -> tuple[object, ...]:
    return node.group, node.layer, node.position, node.role, node.unit


def _ranking_problems(ranking: RankingAgreement, tolerance: Tolerance) -> Iterator[str]:
    if ranking.missing:
        yield f"top_nodes: {ranking.missing} of {ranking.compared} are not among those of the re-run, or are left out"
    if ranking.score > tolerance.score:
        yield f"top_nodes: a score deviates by {ranking.score:.2g} of the largest, more than {tolerance.score:g}"


def _other_problems(recorded: Record, found: Record, rows: Sequence[int], tolerance: Tolerance) -> Iterator[str]:
    """Yield what else follows from the cell and differs."""
    # The reasons for leaving pairs out are texts, which versions word as they like.
    for field in ("groups", "counts", *(("dropped",) if recorded.basisbench == found.basisbench else ())):
        if getattr(recorded, field) != getattr(found, field):
            yield f"{field}: differs from the re-run's"
    same_type = recorded.environment.dtype == found.environment.dtype
    if same_type and recorded.cost.dictionary_bytes != found.cost.dictionary_bytes:
        yield f"cost.dictionary_bytes: {recorded.cost.dictionary_bytes}, the re-run has {found.cost.dictionary_bytes}"
    took, claimed = found.cost.forward_equivalents, recorded.cost.forward_equivalents
    if abs(took - claimed) > (_COST if recorded.basisbench == found.basisbench else _COST_BEFORE) * claimed:
        yield f"cost.forward_equivalents: {claimed:g}, the re-run took {took:g}"
    for name in ("feature_nodes", "error_nodes", "units"):
        counts = np.array([getattr(recorded.curve, name)[row] for row in rows])
        again = np.array(getattr(found.curve, name))
        if (np.abs(counts - again) > 1.0 + _COUNTS * again).any():
            yield f"curve.{name}: differs from the re-run's by more than near ties explain"
    if recorded.curve.kl is not None and found.curve.kl is not None:
        apart = _apart([recorded.curve.kl[row] for row in rows], found.curve.kl)
        if apart.max() > tolerance.mean:
            yield f"curve.kl: deviates by {apart.max():.2g}, more than {tolerance.mean:g}"
    for check, repeated in zip(recorded.subset_checks, found.subset_checks, strict=True):
        apart = _apart(check.draws, repeated.draws)
        if apart.max() > tolerance.mean:
            yield f"subset_checks: size {check.size} deviates by {apart.max():.2g}, more than {tolerance.mean:g}"
    if (recorded.guard is None) != (found.guard is None):
        yield "guard: given on one side and null on the other"
    elif recorded.guard is not None and found.guard is not None:
        for name in ("fvu", "l0"):
            ours, theirs = np.array(getattr(found.guard, name)), np.array(getattr(recorded.guard, name))
            if (np.abs(ours - theirs) > _COUNTS * ours + _ROUNDING).any():
                yield f"guard.{name}: deviates by more than {_COUNTS:.0%} of the re-run's"
