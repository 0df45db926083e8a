"""Show pairs of a task as a model's tokenizer sees them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from basisbench.commands.options import Commands, absolute, add_command, add_plugin, positive
from basisbench.errors import BasisBenchError
from basisbench.types import FAMILIES, Bos

if TYPE_CHECKING:
    from basisbench.types import ModelSpec, Pairs, PairSet


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "show",
        "show pairs of a task as a model's tokenizer sees them",
        "Show pairs of a task: both prompts with every token, the answers, the role of each position, how many levels\n"
        "intervals can resample, and how many candidate pairs were dropped and why. Only the tokenizer is loaded,\n"
        "unless --measure asks how often the model is right and what there is to explain.",
        "examples:\n  basisbench show sva_rc -n 3\n  basisbench show sva_rc --model gpt2-small --bos always\n"
        "  basisbench show sva_rc --measure\n",
    )
    parser.add_argument("task", metavar="TASK", nargs="?", help="name of a task; not needed with --task-file")
    parser.add_argument("--model", metavar="MODEL", help=(
        "model whose tokenizer is used: a listed name, ORG/NAME[@REVISION], a folder or a GGUF file (default: the "
        "model that ships with BasisBench)"
    ))  # fmt: skip
    parser.add_argument("-n", dest="count", metavar="N", type=positive, default=5, help="pairs to show (default: 5)")
    parser.add_argument("--split", choices=["attribution", "evaluation"], default="evaluation", help=(
        "which split to show (default: evaluation)"
    ))  # fmt: skip
    parser.add_argument("--examples", metavar="N", type=positive, default=100, help="pairs to make per split (100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pairs (default: 0)")
    parser.add_argument("--bos", choices=get_args(Bos), default="auto", help=(
        "whether a beginning-of-sequence token stands in front (default: auto, where the tokenizer puts one)"
    ))  # fmt: skip
    parser.add_argument("--measure", action="store_true", help=(
        "load the model, and print its accuracy and the gap F(M) - F(0) of each site family under mean ablation"
    ))  # fmt: skip
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

    from basisbench.models.gguf import locate_model
    from basisbench.models.load import load_tokenizer
    from basisbench.models.shape import read_longest
    from basisbench.pairs.alignment import load_splits

    owner = f"model '{model.name}'"
    located = locate_model(model)
    tokenizer = load_tokenizer(owner, located)
    splits = load_splits(
        task,
        tokenizer,
        attribution=options.examples,
        evaluation=options.examples,
        seed=options.seed,
        bos=options.bos,
        longest=read_longest(located),
    )
    chosen = splits[0] if options.split == "attribution" else splits[1]
    print(f"{task.name} (version {task.version}) with the tokenizer of {model.name}: {task.summary}")
    print(f"{options.split} split: {chosen.pair_count} pairs in {len(chosen)} aligned group(s); seed {options.seed}")
    levels = {factor: {level for group in chosen for level in group.clusters[factor]} for factor in chosen[0].clusters}
    print(f"levels that intervals resample: {', '.join(f'{name} {len(found)}' for name, found in levels.items())}")
    _print_pairs(chosen, options.count, tokenizer)
    print()
    print(_dropped_account(chosen, options.split))
    if options.measure:
        print()
        _print_measured(model, splits, options.seed)


def _print_measured(spec: ModelSpec, splits: tuple[PairSet, PairSet], seed: int) -> None:
    """Print how often the model is right on the evaluation pairs, and how far its metric falls without a family."""
    import torch

    from basisbench.attribution.context import GroupContext
    from basisbench.circuits.group import GroupPair
    from basisbench.models.load import load_model

    model = load_model(spec)
    groups = [
        GroupPair(GroupContext(model, attribution, seed), GroupContext(model, evaluation, seed))
        for attribution, evaluation in zip(*splits, strict=True)
    ]
    full = torch.cat([group.full for group in groups])
    whole = float(full.mean())
    print(f"accuracy {float((full > 0).double().mean()):.0%} of {len(full)} evaluation pairs; F(M) {whole:.3f}")
    for family in FAMILIES:
        empty = float(torch.cat([group.empty_everywhere(family, "mean") for group in groups]).mean())
        share = f" ({(whole - empty) / abs(whole):.0%} of |F(M)|)" if whole else ""
        print(f"{family}: F(0) {empty:.3f}, gap F(M) - F(0) {whole - empty:.3f}{share}")


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


def _pair_lines(group: Pairs, row: int, tokenizer: Any) -> Iterator[str]:
    """Yield the clean and the counterfactual prompt with what each calls for, and the tokens of each with their ids."""
    from basisbench.pairs.tokens import token_texts

    for side, text, ids, called in (
        ("clean", group.clean_text[row], group.clean[row], group.answers[row]),
        ("counterfactual", group.counterfactual_text[row], group.counterfactual[row], group.foils[row]),
    ):
        words = ", ".join(repr(tokenizer.decode([int(token)])) for token in called)
        texts = token_texts(tokenizer, ids.tolist())
        yield f"{side:<14}  {text!r} -> {words}"
        yield f"{'':<14}  {' | '.join(f'{token} {piece!r}' for token, piece in zip(ids.tolist(), texts, strict=True))}"


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
