"""All checks of a task: two splits without a common word, minimal pairs, the same on every call and in any process."""

from __future__ import annotations

import base64
import hashlib
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from basisbench.checks.basis_claims import complaints
from basisbench.checks.finding import Check, Finding, Property, holds, information, nothing, run_checks
from basisbench.checks.stage import prompts_of
from basisbench.errors import TaskError
from basisbench.pairs.alignment import MINIMUM_GROUP, clusters_of, load_splits, pairs_of
from basisbench.types import SPLITS, ContrastPair, PairSet, Split

if TYPE_CHECKING:
    from basisbench.models.model import Model
    from basisbench.protocols import Task

_MOST = 100_000
"""Candidates that are looked at; a task that goes on for longer is not finite."""

_WANTED = 60

FEWEST_LEVELS = 8
"""Levels of a cluster factor below which an interval is unreliable."""


@dataclass(frozen=True, eq=False)
class TaskStage:
    """A task and the model whose tokenizer is used."""

    task: Task
    model: Model

    @cached_property
    def candidates(self) -> Mapping[Split, list[ContrastPair]]:
        """The pairs of each split as text, under seed 0."""
        return {split: list(islice(self.task.candidates(split, 0), _MOST + 1)) for split in SPLITS}

    @cached_property
    def pairs(self) -> Mapping[Split, PairSet]:
        """The aligned groups of each split, under seed 0."""
        tokenizer, longest = self.model.tokenizer, self.model.longest
        return {split: pairs_of(self.task, tokenizer, split, _WANTED, 0, longest=longest) for split in SPLITS}

    def both(self) -> Iterator[ContrastPair]:
        """Yield the candidates of both splits."""
        for split in SPLITS:
            yield from self.candidates[split]


def check_task(task: Task, model: Model) -> Iterator[Property]:
    """Yield every property of a task."""
    yield from run_checks(f"task {task.name}", CHECKS, TaskStage(task, model))


def _metadata(stage: TaskStage) -> Finding:
    found = complaints(stage.task.name, stage.task.summary)
    version = stage.task.version
    if not isinstance(version, str) or not version.strip():
        found.append(f"the version is {version!r}, not a text")
    return nothing(found, "mistakes")


def _candidates(stage: TaskStage) -> Finding:
    found = []
    for split, pairs in stage.candidates.items():
        texts = {(pair.clean_text, pair.counterfactual_text) for pair in pairs}
        if not pairs:
            found.append(f"no {split} pair")
        if len(pairs) > _MOST:
            found.append(f"more than {_MOST} {split} pairs: they must come to an end")
        elif len(texts) < len(pairs):
            found.append(f"{len(pairs) - len(texts)} {split} pairs occur twice")
    return nothing(found, "mistakes")


def _words(*texts: str) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w+", text.lower())}


def _disjoint_words(stage: TaskStage) -> Finding:
    foreign = set[str]()
    for split, other in (SPLITS, SPLITS[::-1]):
        varied = {word for pair in stage.candidates[other] for word in _words(*pair.words)}
        if not varied:
            return holds(False, f"{other} pairs name no word that the task varies", "a word each")
        for pair in stage.candidates[split]:
            foreign |= varied & _words(pair.clean_text, pair.counterfactual_text, *pair.words)
    return nothing(sorted(foreign), "words of one split in prompts of the other")


def _words_named(stage: TaskStage) -> Finding:
    """Hold that `words` names what differs between the prompts: else disjoint words would be an empty claim."""
    missing = set[str]()
    for pair in stage.both():
        for clean, other in zip(pair.clean, pair.counterfactual, strict=False):
            missing |= (_words(clean.text) ^ _words(other.text)) - _words(*pair.words)
    return nothing(sorted(missing), "words that differ between prompts and are not named")


def _contrast(stage: TaskStage) -> Finding:
    found = []
    for pair in stage.both():
        roles = [segment.role for segment in pair.clean]
        if roles != [segment.role for segment in pair.counterfactual] or len(set(roles)) < len(roles):
            found.append(f"roles differ or repeat: {pair.clean_text!r}")
        if pair.clean_text == pair.counterfactual_text:
            found.append(f"no contrast: {pair.clean_text!r}")
        if not pair.answers or not pair.foils or set(pair.answers) & set(pair.foils):
            found.append(f"answers {pair.answers} and foils {pair.foils}: {pair.clean_text!r}")
    return nothing(found, "pairs")


def _clusters(stage: TaskStage) -> Finding:
    """Hold that intervals resample what pairs share: those whose prompts differ in the same words share a level."""
    found = []
    factors = {tuple(sorted(clusters_of(pair))) for pair in stage.both()}
    if len(factors) > 1:
        found.append(f"different factors: {' / '.join(', '.join(names) for names in sorted(factors))}")
    first: dict[tuple[frozenset[str], tuple[str, ...]], Mapping[str, str]] = {}
    for pair in stage.both():
        levels = clusters_of(pair)
        if not all(isinstance(text, str) and text for text in (*levels, *levels.values())):
            found.append(f"factors and levels that are no text: {dict(levels)}")
        clean, other = (Counter(re.findall(r"\w+", text)) for text in (pair.clean_text, pair.counterfactual_text))
        contrast = frozenset((clean - other) + (other - clean))
        if not set(levels.items()) & set(first.setdefault((contrast, pair.answers), levels).items()):
            found.append(f"no level in common where prompts differ in the same words ({', '.join(sorted(contrast))})")
    return nothing(found, "mistakes")


def _levels(stage: TaskStage) -> Finding:
    groups = stage.pairs["evaluation"]
    counts = {
        factor: len({level for group in groups for level in group.clusters[factor]}) for factor in groups[0].clusters
    }
    text = ", ".join(f"{factor} {count}" for factor, count in counts.items())
    few = any(count < FEWEST_LEVELS for count in counts.values())
    advice = f"; below {FEWEST_LEVELS} an interval is unreliable" if few else ""
    return information(f"{text} levels in {groups.pair_count} evaluation pairs{advice}")


def _same_again(stage: TaskStage) -> Finding:
    changed = []
    for split in SPLITS:
        list(islice(stage.task.candidates(split, 1), 5))  # another seed in between, not read to its end
        if list(islice(stage.task.candidates(split, 0), _MOST + 1)) != stage.candidates[split]:
            changed.append(f"{split} candidates")
    return nothing(changed, "that differ on a second call")


def _other_seed(stage: TaskStage) -> Finding:
    same = [split for split in SPLITS if list(stage.task.candidates(split, 1)) == stage.candidates[split]]
    return nothing(same, "splits in the same order under another seed")


_IN_A_PROCESS = """
import base64, pickle, sys
from pathlib import Path
from basisbench.checks.task import digest_of_candidates
from basisbench.registry import load_module
if sys.argv[1]:
    load_module(Path(sys.argv[1]))
print(digest_of_candidates(pickle.loads(base64.b64decode(sys.stdin.read()))))
"""


def digest_of_candidates(task: Task) -> str:
    """Return the SHA-256 over the candidates of both splits under seed 0."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for pair in islice(task.candidates(split, 0), _MOST + 1):
            digest.update(repr(pair).encode())
    return digest.hexdigest()


def _other_process(stage: TaskStage) -> Finding:
    """Hold that another process gives the same: sets and hashes of texts are in another order there."""
    try:
        pickled = base64.b64encode(pickle.dumps(stage.task)).decode()
    except Exception as error:
        return information(f"not measured: it cannot be sent to another process: {type(error).__name__}")
    name = type(stage.task).__module__
    path = str(getattr(sys.modules.get(name), "__file__", "")) if name.startswith("basisbench_plugin_") else ""
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-c", _IN_A_PROCESS, path],
        input=pickled,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": seed},
    )
    if done.returncode:
        return information(f"not measured: it does not load in another process: {done.stderr.strip()[-80:]}")
    same = done.stdout.strip() == digest_of_candidates(stage.task)
    return holds(same, "the same in another process" if same else "other pairs in another process", "the same pairs")


def _enough(stage: TaskStage) -> Finding:
    model, few, bound = stage.model, MINIMUM_GROUP, f"at least {MINIMUM_GROUP} in a common group, no more than asked"
    try:
        load_splits(stage.task, model.tokenizer, attribution=few, evaluation=few, seed=0, longest=model.longest)
    except TaskError as error:
        return holds(False, str(error), bound)
    counts = [stage.pairs[split].pair_count for split in SPLITS]
    text = f"{counts[0]} attribution and {counts[1]} evaluation pairs where {_WANTED} are asked"
    return holds(max(counts) <= _WANTED, text, bound)


def _accuracy(stage: TaskStage) -> Finding:
    metric = prompts_of(stage.model, stage.task).on(stage.model).evaluation.clean_metric()
    right = float((metric > 0).double().mean())
    return information(f"{right:.0%} of {len(metric)} pairs; mean logit difference {float(metric.mean()):.2f}")


CHECKS: tuple[Check[TaskStage], ...] = (
    Check("metadata", "name, version and a summary of one line are there", _metadata),
    Check("candidates", "each split has pairs, distinct and finitely many", _candidates),
    Check("disjoint words", "no word that the task varies is in both splits", _disjoint_words),
    Check("words named", "every word that differs between the prompts is among a pair's words", _words_named),
    Check("contrast", "prompts differ, roles agree, answers are no foils", _contrast),
    Check("clusters", "pairs name the same factors; those that differ in the same words share a level", _clusters),
    Check("levels", "how many levels intervals can resample", _levels),
    Check("the same again", "a second call gives the same pairs", _same_again),
    Check("another process", "another process gives the same pairs", _other_process),
    Check("another seed", "another seed gives another order", _other_seed),
    Check("enough pairs", "both splits have a common group that is large enough", _enough),
    Check("accuracy", "how often the model prefers the answer", _accuracy),
)
"""In the order of the report."""
