"""What each command does; heavy imports happen inside the command that needs them."""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from basisbench.errors import BasisBenchError
from basisbench.model_names import find_model
from basisbench.plan import Settings
from basisbench.registry import PLURALS
from basisbench.types import Pairs, PairSet


def run_command(options: argparse.Namespace) -> None:
    """Run a suite, print the comparison, and write it next to the records with the pictures."""
    from basisbench.executors import parse_executor
    from basisbench.run import Request, plan_request, run_request

    request = Request(
        suite=options.suite,
        changes={
            "models": options.model,
            "tasks": options.task,
            "bases": options.basis,
            "methods": options.method,
            "ablations": options.ablation,
            "error_policies": options.errors,
            "granularities": options.granularity,
            "seeds": None if options.seed is None else (options.seed,),
            "attribution_pairs": options.examples,
            "evaluation_pairs": options.examples,
        },
        settings=Settings(
            out=options.out,
            device=options.device,
            dtype=options.dtype,
            resume=not options.no_resume,
            plugins=_absolute(options.plugin),
            task_files=_absolute(options.task_file),
        ),
        jobs=options.jobs,
        limit=options.limit,
        executor=parse_executor(
            options.executor,
            worker_gpus=options.worker_gpus,
            worker_cpus=options.worker_cpus,
            worker_memory_gib=options.worker_memory,
        ),
    )
    if options.dry_run:
        from basisbench.dry_run import estimate_run, render

        plan = plan_request(request)
        print(render(estimate_run(plan), plan))
        return
    outcome = run_request(request)
    if outcome.records:
        _publish(outcome.records, options.out)
        states = Counter(event.state for event in outcome.events)
        counts = ", ".join(f"{states[state]} {state}" for state in ("finished", "kept", "failed") if states[state])
        print(f"cells: {counts}; {outcome.seconds:.0f} s; records, tables and pictures in {options.out}")
    outcome.raise_failures()


def _publish(records: tuple[Path, ...], out: Path) -> None:
    """Print the comparison of this run's cells; write it, and the pictures, into the results folder."""
    from basisbench.compare import render_markdown, render_text, write_csv
    from basisbench.frame import read_results, summarise
    from basisbench.plot import plot_results

    read = read_results(records)
    summary = summarise(read)
    print(render_text(summary))
    write_csv(summary, out / "summary.csv")
    (out / "summary.md").write_text(render_markdown(summary), encoding="utf-8")
    with _frozen():
        plot_results(read, out / "pictures", summary=summary)


@contextmanager
def _frozen() -> Iterator[None]:
    """Spare what is in memory now the garbage collector: a picture's many small objects call it all the time."""
    import matplotlib.backends.backend_agg  # noqa: F401 -- it would load with the first picture, and not be spared

    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def list_command(options: argparse.Namespace) -> None:
    """Print the names and summaries of one kind of thing."""
    rows: tuple[tuple[str, str], ...]
    if options.kind == "suites":
        from basisbench.suite import list_suites

        rows = tuple((suite.name, suite.summary) for suite in list_suites())
    else:
        kind = next(kind for kind, plural in PLURALS.items() if plural == options.kind)
        registry = Settings(out=Path(), plugins=_absolute(options.plugin)).registry()
        rows = tuple((entry.name, entry.summary) for entry in registry.listing(kind))
    width = max((len(name) for name, _ in rows), default=0)
    for name, summary in rows:
        print(f"{name:<{width}}  {summary}")


def show_command(options: argparse.Namespace) -> None:
    """Print pairs of a task as text, with what the tokenizer makes of them."""
    files = _absolute([options.task_file] if options.task_file else [])
    registry = Settings(out=Path(), plugins=_absolute(options.plugin), task_files=files).registry()
    name = options.task
    if name is None:
        if not files:
            raise BasisBenchError("show needs the name of a task or --task-file FILE; see 'basisbench list tasks'")
        name = next(entry.name for entry in registry.of("task") if entry.source == str(files[0]))
    task = registry.get("task", name)
    model = find_model(options.model, registry)

    from basisbench.alignment import load_splits
    from basisbench.hub import locate
    from basisbench.load import load_tokenizer

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


def compare_command(options: argparse.Namespace) -> None:
    """Print the comparison of results, and write it where asked."""
    from basisbench.compare import compare_table, render_markdown, render_text, write_csv
    from basisbench.frame import summarise

    summary = summarise(options.results)
    if options.csv == "-":
        compare_table(summary).to_csv(sys.stdout, index=False, na_rep="nan", float_format="%.6g")
    elif options.csv:
        write_csv(summary, options.csv)
    if options.markdown == "-":
        print(render_markdown(summary), end="")
    elif options.markdown:
        path = Path(options.markdown)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render_markdown(summary), encoding="utf-8")
    if options.reported:
        from basisbench.frame import load_results
        from basisbench.reported import read_reported, render_reported

        print(render_reported(load_results(options.results), read_reported(options.reported)))
    elif "-" not in (options.csv, options.markdown):
        print(render_text(summary))


def plot_command(options: argparse.Namespace) -> None:
    """Draw the pictures of results and print their paths."""
    from basisbench.frame import read_results
    from basisbench.plot import plot_results

    records = read_results(options.results)
    with _frozen():
        for path in plot_results(records, options.out):
            print(path)


def validate_command(options: argparse.Namespace) -> int:
    """Check records; print a line per bad one and the counts.

    Returns:
        The exit code: 2 when a record is not valid.
    """
    from basisbench.validate import validate

    report = validate(options.paths)
    for line in report.lines():
        print(line, file=sys.stderr)
    print(report.counts())
    return 2 if report.problems else 0


def pin_command(options: argparse.Namespace) -> None:
    """Write a suite with every repository pinned to a commit."""
    from basisbench.pin import pin_suite

    registry = Settings(out=Path(), plugins=_absolute(options.plugin)).registry()
    revisions = pin_suite(options.suite, registry, options.out)
    for repository, commit in revisions.items():
        print(f"{repository}  {commit}")
    print(f"{len(revisions)} repositories pinned in {options.out}")


def pocket_command(options: argparse.Namespace) -> None:
    """Train the pocket model and its dictionaries."""
    # By name: the harness never imports the baselines statically, so that they stay replaceable.
    build = importlib.import_module("basisbench_baselines.pocket.build")
    build.build(out=options.out, seed=options.seed)


def _absolute(paths: list[Path]) -> tuple[Path, ...]:
    return tuple(path.resolve() for path in paths)
