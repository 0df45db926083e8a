"""Show pairs of a task as a model's tokenizer sees them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basisbench.commands.options import Commands, absolute, add_command, add_plugin, positive
from basisbench.errors import BasisBenchError

if TYPE_CHECKING:
    from basisbench.types import Pairs, PairSet


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "show",
        "show pairs of a task as a model's tokenizer sees them",
        "Show pairs of a task: both prompts, the answers, the token counts and the role of each position, and how\n"
        "many candidate pairs were dropped and why. Only the tokenizer is loaded.",
        "examples:\n  basisbench show sva_rc -n 3\n  basisbench show sva_rc --model gpt2-small\n",
    )
    parser.add_argument("task", metavar="TASK", nargs="?", help="name of a task; not needed with --task-file")
    parser.add_argument("--model", metavar="MODEL", help=(
        "model whose tokenizer is used: a listed name, ORG/NAME[@REVISION], or a folder (default: the model that "
        "ships with BasisBench)"
    ))  # fmt: skip
    parser.add_argument("-n", dest="count", metavar="N", type=positive, default=5, help="pairs to show (default: 5)")
    parser.add_argument("--split", choices=["attribution", "evaluation"], default="evaluation", help=(
        "which split to show (default: evaluation)"
    ))  # fmt: skip
    parser.add_argument("--examples", metavar="N", type=positive, default=100, help="pairs to make per split (100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pairs (default: 0)")
    parser.add_argument("--task-file", metavar="FILE", type=Path, help="show the pairs of a file")
    add_plugin(parser)


def execute(options: argparse.Namespace) -> None:
    """Print pairs of a task as text, with what the tokenizer makes of them."""
    from basisbench.runs.model_names import find_model
    from basisbench.runs.runner import RunOptions

    files = absolute([options.task_file] if options.task_file else [])
    registry = RunOptions(out=Path(), plugins=absolute(options.plugin), task_files=files).registry()
    name = options.task
    if name is None:
        if not files:
            raise BasisBenchError("show needs the name of a task or --task-file FILE; see 'basisbench list tasks'")
        name = next(entry.name for entry in registry.of("task") if entry.source == str(files[0]))
    task = registry.get("task", name)
    model = find_model(options.model, registry)

    from basisbench.models.hub import locate
    from basisbench.models.load import load_tokenizer
    from basisbench.pairs.alignment import load_splits

    owner = f"model '{model.name}'"
    tokenizer = load_tokenizer(owner, locate(owner, model.path, model.revision))
    splits = load_splits(task, tokenizer, attribution=options.examples, evaluation=options.examples, seed=options.seed)
    chosen = splits[0] if options.split == "attribution" else splits[1]
    print(f"{task.name} (version {task.version}) with the tokenizer of {model.name}: {task.summary}")
    print(f"{options.split} split: {chosen.pair_count} pairs in {len(chosen)} aligned group(s); seed {options.seed}")
    _print_pairs(chosen, options.count, tokenizer)
    print()
    print(_dropped_account(chosen, options.split))


def _print_pairs(pairs: PairSet, count: int, tokenizer: Any) -> None:
    """Print about `count` pairs, shared out over the groups, largest group first."""
    left = count
    for index, group in enumerate(pairs):
        if left == 0:
            break
        here = min(len(group), max(1, left // (len(pairs) - index)))
        left -= here
        print(f"\ngroup {group.group}: {len(group)} pairs of {group.length} tokens")
        print(f"  roles: {_runs(group.roles)}")
        for row in range(here):
            for line in _pair_lines(group, row, tokenizer):
                print(f"  {line}")


def _pair_lines(group: Pairs, row: int, tokenizer: Any) -> tuple[str, str]:
    """Return the clean and the counterfactual prompt with the tokens that each calls for."""
    answers = ", ".join(repr(tokenizer.decode([int(token)])) for token in group.answers[row])
    foils = ", ".join(repr(tokenizer.decode([int(token)])) for token in group.foils[row])
    return (
        f"clean           {group.clean_text[row]!r} -> {answers}",
        f"counterfactual  {group.counterfactual_text[row]!r} -> {foils}",
    )


def _runs(roles: tuple[str, ...]) -> str:
    """Write the roles of all positions shortly: `start | subject x2 | verb`."""
    runs: list[tuple[str, int]] = []
    for role in roles:
        if runs and runs[-1][0] == role:
            runs[-1] = (role, runs[-1][1] + 1)
        else:
            runs.append((role, 1))
    return " | ".join(role if count == 1 else f"{role} x{count}" for role, count in runs)


def _dropped_account(pairs: PairSet, split: str) -> str:
    """Say how many candidate pairs were left out, and why."""
    if not pairs.dropped:
        return f"dropped from the {split} split: none"
    reasons = "; ".join(f"{reason}: {count}" for reason, count in sorted(pairs.dropped.items()))
    return f"dropped from the {split} split: {sum(pairs.dropped.values())} candidate pairs ({reasons})"
