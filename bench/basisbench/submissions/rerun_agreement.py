"""Compares a record with a re-run of its cell, within stated tolerances.

1. F(M), F(0), and the metric of circuit and complement at every size that was evaluated again: value by value, and as
   means over examples, which is what every summary is made of.
2. What tables show of the curve, the gates and best marks (`rerun_summaries`).
3. The top nodes and their scores: whether the ranking is the same, as far as a record tells.
4. Whatever else follows from the cell: groups, counts, clusters, node counts, divergence, random halves, fit of the
   dictionary, forward-equivalents. Seconds and memory depend on the machine and are not compared.

Deviations of values are in units of the gap F(M) - F(0), of 0.1 to 1 logits, less what rounding to five digits makes.
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from basisbench.results.record import Identities, Record
from basisbench.results.record_fields import TopNode
from basisbench.submissions.rerun_deviation import apart, deviation_of, endpoint_problems, means_apart, unit_of
from basisbench.submissions.rerun_rest import gate_problems, other_problems
from basisbench.submissions.rerun_summaries import summary_problems
from basisbench.submissions.verification_fields import Deviation, RankingAgreement, Tolerance, VerifiedCell

_FINE = Tolerance(
    value=1e-3, share=0.02, mean=2e-3, most=0.5, tied_mean=1e-2, tied_sizes=0.25, score=1e-2, fit=1e-3, summary=0.05
)
_HALF = Tolerance(
    value=5e-2, share=0.02, mean=2e-2, most=1.0, tied_mean=0.1, tied_sizes=0.25, score=5e-2, fit=1e-2, summary=0.25
)
TOLERANCES: Mapping[str, Tolerance] = {"float64": _FINE, "float32": _FINE, "bfloat16": _HALF, "float16": _HALF}
"""By dtype of the model's weights; `results/README.md` says how they were chosen."""

_PROBLEMS = 20
"""How many are listed at most."""


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
        found: the re-run, at some of the record's sizes.
        here: digests of what the re-run was made on.
        tolerance: how far they may lie apart.
    """
    dtype = found.environment.dtype
    if not {*found.curve.sizes} <= {*recorded.curve.sizes} or recorded.counts.nodes_max != found.counts.nodes_max:
        others = f"the {found.counts.nodes_max} nodes of the re-run have others"
        return refused(recorded, here, dtype, [f"curve.sizes: end at {recorded.curve.sizes[-1]}, {others}"])
    if len(found.endpoints.full) != len(recorded.endpoints.full):
        examples = f"{len(recorded.endpoints.full)} examples, the re-run has {len(found.endpoints.full)}"
        return refused(recorded, here, dtype, [f"endpoints.full: {examples}"])
    rows = [recorded.curve.sizes.index(size) for size in found.curve.sizes]
    sizes = found.curve.sizes
    unit = unit_of(found)
    full = deviation_of(recorded.endpoints.full, found.endpoints.full, tolerance, unit)
    empty = deviation_of(recorded.endpoints.empty, found.endpoints.empty, tolerance, unit)
    circuit, circuit_problems = _compare_rows("circuit", recorded, found, rows, tolerance, unit)
    complement, complement_problems = _compare_rows("complement", recorded, found, rows, tolerance, unit)
    ranking = _compare_ranking(recorded.top_nodes, found.top_nodes, tolerance)
    problems = [
        *compare_identities(recorded, here),
        *endpoint_problems("endpoints.full", full, tolerance),
        *endpoint_problems("endpoints.empty", empty, tolerance),
        *circuit_problems,
        *complement_problems,
        *_tied_problems(circuit, complement, sizes, tolerance),
        *summary_problems(recorded, found, tolerance),
        *_ranking_problems(ranking, tolerance),
        *gate_problems(recorded, found, tolerance, unit),
        *other_problems(recorded, found, rows, tolerance, unit),
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


def _compare_rows(
    name: str, recorded: Record, found: Record, rows: Sequence[int], tolerance: Tolerance, unit: float
) -> tuple[Deviation, list[str]]:
    """Compare the metric of circuit or complement, size by size; return what is wrong besides."""
    pairs = [
        (getattr(recorded.curve, name)[row], again) for row, again in zip(rows, getattr(found.curve, name), strict=True)
    ]
    compared = [index for index, (row, again) in enumerate(pairs) if row is not None and again is not None]
    sizes = [found.curve.sizes[index] for index in compared]
    expected, values = (np.array([pairs[index][side] for index in compared]) for side in (0, 1))
    values_apart, means = apart(expected, values, unit), means_apart(expected, values, unit)
    allowed = max(1, int(tolerance.share * expected.shape[1]))
    most = tolerance.most / unit
    tied, problems = [], []
    for size, row, mean in zip(sizes, values_apart, means, strict=True):
        outside = int((row > tolerance.value).sum())
        if outside <= allowed and mean <= tolerance.mean and row.max() <= most:
            continue
        # The ends hold no node, or all: nothing can change places there.
        if size not in (sizes[0], sizes[-1]) and row.max() <= most and mean <= tolerance.tied_mean:
            tied.append(size)
            continue
        problems.append(
            f"curve.{name}: at size {size} {outside} of {len(row)} values deviate by more than {tolerance.value:g}, "
            f"the largest by {row.max():.2g} (example {row.argmax()}), and their mean by {mean:.2g}"
        )
    missing = [
        size for (row, again), size in zip(pairs, found.curve.sizes, strict=True) if (row is None) != (again is None)
    ]
    problems += [f"curve.{name}: at size {size} given on one side and null on the other" for size in missing]
    return deviation_of(expected, values, tolerance, unit, sizes, tied), problems


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


def _compare_ranking(recorded: Sequence[TopNode], found: Sequence[TopNode], tolerance: Tolerance) -> RankingAgreement:
    """Compare top nodes, both ways; one that only a near tie pushed off the end of a list is not missing there."""
    ours, theirs = ({_node(node): node.score for node in nodes} for nodes in (found, recorded))
    scale = max(map(abs, theirs.values()), default=0.0) or 1.0

    def missing(named: Mapping[tuple[object, ...], float], among: Mapping[tuple[object, ...], float]) -> int:
        last = min(map(abs, among.values()), default=0.0) + tolerance.score * scale
        return sum(abs(score) > last for node, score in named.items() if node not in among)

    deviation = max((abs(ours[node] - theirs[node]) / scale for node in theirs.keys() & ours.keys()), default=0.0)
    left_out = max(0, len(found) - len(theirs))  # some were, or one is there twice
    return RankingAgreement(
        compared=len(recorded), missing=max(missing(theirs, ours), missing(ours, theirs), left_out), score=deviation
    )


def _node(node: TopNode) -> tuple[object, ...]:
    return node.group, node.layer, node.position, node.role, node.unit, node.coordinate


def _ranking_problems(ranking: RankingAgreement, tolerance: Tolerance) -> Iterator[str]:
    if ranking.missing:
        yield f"top_nodes: {ranking.missing} of {ranking.compared} are not among those of the re-run, or are left out"
    if ranking.score > tolerance.score:
        yield f"top_nodes: a score deviates by {ranking.score:.2g} of the largest, more than {tolerance.score:g}"
