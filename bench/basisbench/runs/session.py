"""One cell from question to record.

1. A session holds one task on one model: the tokenised pairs of both splits, and per aligned group what all
   bases share (activations, gradient fields, F(M)).
2. A cell scores the nodes of a basis on the attribution split, ranks them, and evaluates circuits of every size
   and their complements on the evaluation split, group by group.
3. The record pools the groups' examples and carries identities, costs and environment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING

from basisbench.attribution.context import GroupContext
from basisbench.attribution.cost import Spent, now
from basisbench.attribution.fit import Fit, measure_fit
from basisbench.attribution.fitting import TaskActivations
from basisbench.attribution.loss_recovered import SharedLosses
from basisbench.attribution.parts import mean_scores
from basisbench.circuits.curve import measure_curves
from basisbench.circuits.group import GroupPair
from basisbench.circuits.ranking import Ranking, pooled_scores, rank
from basisbench.circuits.transfer import other_half, transferred_scores
from basisbench.errors import BasisBenchError
from basisbench.models.batching import MemoryExhaustedError, is_out_of_memory
from basisbench.models.memory import bit_sum, peak_memory, reset_peak_memory, trim_memory
from basisbench.models.model import Model
from basisbench.pairs.alignment import load_splits
from basisbench.plugin_code import code_digest, is_built_in, method_digest
from basisbench.protocols import averages_pairs, made_for
from basisbench.results.record import CellConfig, Identities, PlugIn, Record
from basisbench.results.record_fields import Cost, Dropped, Seconds, SuiteTasks
from basisbench.results.score_file import refuse_others
from basisbench.runs import basis_cache
from basisbench.runs.basis_cache import CachedBasis
from basisbench.runs.cell_record import make_record
from basisbench.runs.plugin_failure import check_scores, check_widths, state_of
from basisbench.types import Bos, Metric, Pairs, PairSet, Scores

if TYPE_CHECKING:
    from basisbench.protocols import Basis, BasisSpec, Method, Task

_ATTEMPTS = 4
"""How often a cell is tried when memory runs out where smaller passes do not help at once."""


@dataclass(frozen=True, eq=False)
class Session:
    """One task on one model, ready to run cells.

    Attributes:
        model: the model.
        attribution: pairs that scores and mean references come from.
        evaluation: pairs that curves come from.
        groups: the aligned groups, in the order of the record's examples.
        seed: seed of the pairs and of random scores.
        task_code: digest of the task's source; None where it has none.
        allow_poor_fit: whether dictionaries may explain nothing on these prompts.
        bos: whether a beginning-of-sequence token stands in front of prompts.
        metric: what answers are worth.
        task: the task; None where the pairs were put together by hand.
    """

    model: Model
    attribution: PairSet
    evaluation: PairSet
    groups: tuple[GroupPair, ...]
    seed: int = 0
    task_code: str | None = None
    allow_poor_fit: bool = False
    bos: Bos = "auto"
    metric: Metric = "logit"
    task: Task | None = None
    _fingerprints: dict[str, str | None] = field(default_factory=dict)
    _fits: dict[basis_cache.Key, Fit] = field(default_factory=dict)
    _losses: SharedLosses = field(default_factory=dict)

    @cached_property
    def _opened_with(self) -> tuple[int, ...]:
        return state_of(self.model)

    @cached_property
    def _weights_before(self) -> int:
        return bit_sum(self.model.body.parameters())

    def _watch_values(self) -> None:
        """From now on look at the values of what is shared; done where somebody's code is about to run."""
        _ = self._weights_before
        for context in self._contexts:
            context.watch_values()

    @property
    def _contexts(self) -> list[GroupContext]:
        return [context for group in self.groups for context in (group.attribution, group.evaluation)]

    @property
    def pair_counts(self) -> dict[str, int]:
        """Attribution pairs of each aligned group, by its key."""
        return {group.attribution.pairs.group: len(group.attribution.pairs) for group in self.groups}

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 over the tokenised pairs of both splits."""
        digest = hashlib.sha256()
        for pairs in (*self.attribution, *self.evaluation):
            digest.update(f"{pairs.task} {pairs.version} {pairs.split} {pairs.group}".encode())
            for ids in (pairs.clean, pairs.counterfactual, pairs.answers, pairs.foils):
                digest.update(f"{ids.shape}".encode())
                digest.update(ids.astype("<i8").tobytes())
        return digest.hexdigest()

    def identity(
        self, spec: BasisSpec, method: Method | None = None, layers: tuple[int, ...] | None = None
    ) -> Identities:
        """Return what a cell would be run on; nothing is built for it but a basis that has to be fitted.

        Args:
            spec: the basis.
            method: the method, whose code is left out when None.
            layers: the layers that the basis is restricted to; None for all.

        Raises:
            BasisError: the basis has to be fitted, and cannot be.
        """
        if spec.fit is not None:
            weights = self.basis(spec, layers).fingerprint
        else:
            if spec.name not in self._fingerprints:
                found = spec.fingerprint(self.model.spec)
                self._fingerprints[spec.name] = (
                    None if found is None else basis_cache.checked_fingerprint(found, spec.name)
                )
            weights = self._fingerprints[spec.name]
        digests: dict[PlugIn, str | None] = {"task": self.task_code, "basis": code_digest(spec)}
        digests["method"] = None if method is None else method_digest(method)
        code = {part: digest for part, digest in digests.items() if digest}
        return Identities(model=self.model.weights_hash, dictionary=weights, data=self.data_hash, code=code or None)

    def basis(self, spec: BasisSpec, layers: tuple[int, ...] | None = None) -> CachedBasis:
        """Build a basis, or take the one that was built before.

        Args:
            spec: the basis.
            layers: the layers that it is restricted to; None for all.

        Raises:
            BasisError: it cannot be built.
        """
        if not is_built_in(spec):
            self._watch_values()
        key = self._make_room(spec, layers)
        return basis_cache.build(self.model, spec, key, TaskActivations([group.attribution for group in self.groups]))

    def _make_room(self, spec: BasisSpec, layers: tuple[int, ...] | None) -> basis_cache.Key:
        """Drop what belongs to other bases, so that one can be built."""
        for group in self.groups:
            group.forget_other_bases(spec.name)
        key = self._key(spec, layers)
        basis_cache.make_room(self.model, key)
        return key

    def _key(self, spec: BasisSpec, layers: tuple[int, ...] | None) -> basis_cache.Key:
        return basis_cache.Key(spec.name, layers, "" if spec.fit is None else self.data_hash)

    def fit(self, spec: BasisSpec, basis: Basis, layers: tuple[int, ...] | None = None) -> Fit | None:
        """Return how well a basis fits the prompts, measured once for all of its cells; None for an exact one.

        Args:
            spec: the basis.
            basis: what was built of it, on the layers.
            layers: the layers that it is restricted to; None for all.

        Raises:
            BasisError: it explains nothing here, and is neither a control nor allowed to.
        """
        if basis.exact:
            return None
        key = self._key(spec, layers)
        if key not in self._fits:
            self._fits[key] = measure_fit(
                basis,
                [group.attribution for group in self.groups],
                allow_poor=self.allow_poor_fit,
                control=spec.control,
                shared=self._losses,
            )
        return self._fits[key]

    def run(
        self,
        cell: CellConfig,
        spec: BasisSpec,
        method: Method,
        *,
        at: Collection[int] | None = None,
        suite: SuiteTasks | None = None,
    ) -> Record:
        """Run one cell.

        Where memory runs out, passes become smaller (basisbench.models.batching), and what a pass cannot help is tried
        again with smaller passes before it.

        Args:
            cell: what is asked; its model and task are those of the session.
            spec: the basis that the cell names.
            method: the method that the cell names.
            at: evaluate circuits of these sizes only, and of 0 and all nodes; when None every size of the grid, and
                those that bisection adds. Scores and ranking are computed in full all the same.
            suite: the suite that the cell is run for.

        Raises:
            BasisError: the basis cannot be built, or explains nothing on the task's prompts.
            BasisBenchError: the method gives no score for some node, or one that is no finite number; or something
                shared was changed in place, and the session is of no further use.
            MemoryExhaustedError: the cell does not fit into memory.
        """
        key = self._key(spec, cell.layers)
        for _ in range(_ATTEMPTS):
            exhausted = ""
            try:
                return self._measured(cell, spec, method, at, suite)
            except MemoryExhaustedError as error:
                exhausted = str(error)  # not the error, whose traceback holds what the failed pass has made
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            for group in self.groups:
                group.forget_other_bases("")
            # Weights of the basis go before passes become smaller still.
            less = basis_cache.keep_less(self.model, key)
            self.model.batching.release()
            if exhausted and not less:
                raise MemoryExhaustedError(exhausted)
            if not less and not self.model.batching.halve_all():
                break
        raise MemoryExhaustedError(
            f"out of memory on {self.model.device}: basis '{spec.name}' with {self.attribution.pair_count} pairs of "
            f"'{cell.task}' does not fit next to model '{self.model.name}', however small its passes; free memory, "
            "raise the limit of the process, or use --dtype bfloat16, fewer --examples or a narrower basis"
        )

    def _measured(
        self,
        cell: CellConfig,
        spec: BasisSpec,
        method: Method,
        at: Collection[int] | None,
        suite: SuiteTasks | None,
    ) -> Record:
        """Run one cell as far as memory allows."""
        model = self.model
        if not is_built_in(method):
            self._watch_values()
        self._make_room(spec, cell.layers)
        reset_peak_memory(model.device)
        built = self.basis(spec, cell.layers)
        basis = built.basis
        fit = self.fit(spec, basis, cell.layers)
        references = now(model)

        before = model.meter.forward_equivalents
        rankings = self._rankings(cell, basis, method)
        scored = now(model)
        own_passes = model.meter.forward_equivalents - before
        # Taken now: shared work that the curve is the first to need is no part of the time spent on scoring.
        ledgers = [context.ledger for context in self._scoring(cell)]
        if cell.score_split == "evaluation":
            ledgers += [group.attribution.ledger for group in self.groups]
        fresh = sum((ledger.fresh() for ledger in ledgers), Spent())
        if built.large:
            trim_memory()

        for group, ranking in zip(self.groups, rankings, strict=True):
            reference = group.reference_of_few(basis, cell.ablation)
            check_widths(ranking.units, ranking.errors, method, basis, reference, cell.error_policy)
        sizes, curves = measure_curves(cell, basis, self.groups, rankings, at=at)
        finished = now(model)

        fields = sum((ledger.total("field:") for ledger in ledgers), Spent())
        shared = sum((ledger.total("activations:") for ledger in ledgers), Spent())
        cost = Cost(
            seconds=Seconds(
                load=built.spent.seconds + (0.0 if fit is None else fit.seconds),
                gradients=fields.seconds,
                scoring=max(0.0, scored - references - fresh.seconds) + shared.seconds,
                curve=finished - scored,
            ),
            forward_equivalents=max(0.0, own_passes - fresh.forward_equivalents)
            + fields.forward_equivalents
            + shared.forward_equivalents
            + built.spent.forward_equivalents,
            dictionary_bytes=basis.parameter_bytes,
            peak_memory_bytes=peak_memory(model.device),
            device=str(model.device),
        )
        self._refuse_changes(spec, method)
        identities = self.identity(spec, method, cell.layers)
        dropped = Dropped(attribution=dict(self.attribution.dropped), evaluation=dict(self.evaluation.dropped))
        return make_record(
            cell,
            identities,
            model,
            self.groups,
            dropped,
            basis,
            fit,
            rankings,
            curves,
            sizes,
            cost,
            control=spec.control,
            suite=suite,
        )

    def _refuse_changes(self, spec: BasisSpec, method: Method) -> None:
        """Hold that the cell has left alone what it shares with others.

        Raises:
            BasisBenchError: tells what was changed.
        """
        if not is_built_in(spec):
            for group in self.groups:
                group.forget_shared_work()  # it went through the basis, and nobody has counted changes
        if changed := self.changed():
            raise BasisBenchError(
                f"basis '{spec.name}' with method '{method.name}' changed in place what other cells use: {changed[0]}"
                f"{f' and {len(changed) - 1} more' if changed[1:] else ''}; change a copy (tensor.clone())"
            )

    def changed(self) -> list[str]:
        """Return the names of shared tensors that were changed in place, and whether the model was."""
        same = state_of(self.model) == self._opened_with
        if same and "_weights_before" in vars(self):
            same = bit_sum(self.model.body.parameters()) == self._weights_before
        names = [name for context in self._contexts for name in context.changed()]
        return names if same else [*names, "the model's weights or hooks"]

    def redrawn(self, draw: int) -> Session:
        """Return the same question on another draw of the attribution pairs.

        Args:
            draw: which; 0 is the usual one.
        """
        if self.task is None:
            raise BasisBenchError("pairs that no task made cannot be drawn again")
        return open_session(
            self.model,
            self.task,
            attribution_pairs=self.attribution.pair_count,
            evaluation_pairs=self.evaluation.pair_count,
            seed=self.seed,
            bos=self.bos,
            metric=self.metric,
            draw=draw,
        )

    def _scoring(self, cell: CellConfig) -> list[GroupContext]:
        """Return the pairs that scores are taken on, group by group."""
        held_in = cell.score_split == "evaluation"
        return [group.evaluation if held_in else group.attribution for group in self.groups]

    def scores(self, basis: Basis, method: Method, cell: CellConfig) -> list[Scores]:
        """Score every node of a basis in every aligned group.

        Args:
            basis: the basis.
            method: the method.
            cell: says what nodes move to, what error nodes are, and on which pairs.

        Raises:
            BasisBenchError: the method gives no score for some node, or one that is no finite number.
        """
        contexts = self._scoring(cell)
        if (belongs := made_for(method)) is not None:
            weights = getattr(basis, "fingerprint", self._fingerprints.get(basis.name))
            own = Identities(model=self.model.weights_hash, dictionary=weights, data=self.data_hash)
            refuse_others(method.name, *belongs, cell, own)
        for context, group in zip(contexts, self.groups, strict=True):
            for each in {group.attribution, context}:
                each.start(cell.ablation, cell.score_reference, cell.error_policy, means=group.attribution)

        def score(context: GroupContext) -> Scores:
            found = method.score(context, basis)
            return check_scores(found, method, basis, context.pairs.length, cell.error_policy)

        averages = averages_pairs(method)
        return [
            mean_scores(score, each.parts(basis)) if averages and each.in_parts else score(each) for each in contexts
        ]

    def _rankings(self, cell: CellConfig, basis: Basis, method: Method) -> list[Ranking]:
        contexts = self._scoring(cell)
        everyone, pairs = list(range(len(contexts))), [context.pair_count for context in contexts]
        sources = [everyone] * len(contexts)
        if cell.score_split == "other_templates":
            sources = other_half(cell.task, [context.pairs.group for context in contexts])
        scores = self.scores(basis, method, cell)
        if cell.granularity == "unit":

            @cache
            def of_several(groups: tuple[int, ...]) -> Ranking:
                together = pooled_scores([scores[at] for at in groups], [pairs[at] for at in groups])
                return rank(together, policy=cell.error_policy, ties=contexts[0].generator("ties"))

            return [of_several(tuple(own)) for own in sources]
        if cell.score_split == "other_templates":
            scores = transferred_scores(scores, [context.pairs.roles for context in contexts], pairs, sources)
        return [
            rank(score, policy=cell.error_policy, ties=context.generator("ties"))
            for score, context in zip(scores, contexts, strict=True)
        ]


def session_of_cell(cell: CellConfig, model: Model, task: Task, *, allow_poor_fit: bool) -> Session:
    """Make the pairs of a cell ready to run; every cell of the same `cells.pairs_key` runs on them.

    Args:
        cell: the cell.
        model: its model, loaded.
        task: its task.
        allow_poor_fit: whether dictionaries may explain nothing on these prompts.

    Raises:
        TaskError: no pair survives the model's tokenizer.
    """
    return open_session(
        model,
        task,
        attribution_pairs=cell.attribution_pairs,
        evaluation_pairs=cell.evaluation_pairs,
        seed=cell.seed,
        bos=cell.bos,
        metric=cell.metric,
        draw=cell.attribution_draw,
        allow_poor_fit=allow_poor_fit,
    )


def open_session(
    model: Model,
    task: Task,
    *,
    attribution_pairs: int,
    evaluation_pairs: int,
    seed: int,
    bos: Bos = "auto",
    metric: Metric = "logit",
    draw: int = 0,
    allow_poor_fit: bool = False,
) -> Session:
    """Tokenise a task's pairs for a model and make them ready to run.

    Args:
        model: a loaded model.
        task: the task.
        attribution_pairs: pairs wanted in the attribution split.
        evaluation_pairs: pairs wanted in the evaluation split.
        seed: seed of the pairs and of random scores.
        bos: whether a beginning-of-sequence token stands in front of prompts.
        metric: what answers are worth.
        draw: which draw of the attribution pairs.
        allow_poor_fit: whether dictionaries may explain nothing on these prompts.

    Raises:
        TaskError: no pair survives the model's tokenizer.
    """
    attribution, evaluation = load_splits(
        task,
        model.tokenizer,
        attribution=attribution_pairs,
        evaluation=evaluation_pairs,
        seed=seed,
        bos=bos,
        metric=metric,
        draw=draw,
        longest=model.longest,
    )
    other = {pairs.group: pairs for pairs in attribution}
    totals = [sum(pairs.token_count for pairs in split) for split in (attribution, evaluation)]

    def context(pairs: Pairs, total: int) -> GroupContext:
        return GroupContext(model, pairs, seed, beside=total - pairs.token_count)

    groups = tuple(GroupPair(context(other[pairs.group], totals[0]), context(pairs, totals[1])) for pairs in evaluation)
    code = code_digest(task)
    session = Session(model, attribution, evaluation, groups, seed, code, allow_poor_fit, bos, metric, task)
    session.changed()  # from now on
    return session
