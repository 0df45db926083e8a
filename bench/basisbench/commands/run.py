"""Run a suite, print the comparison, write it next to the records."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from basisbench.commands.options import (
    Commands,
    absolute,
    add_command,
    add_plugin,
    positive,
    seed,
    sizes,
    terminal_width,
)
from basisbench.types import SPLITS, Ablation, Bos, ErrorPolicy, Granularity, Metric, ScoreReference

if TYPE_CHECKING:
    from basisbench.results.display import Display

BLOCKS = 50
"""Over how many blocks of nodes adversarial halves are searched for where no number is given."""

_HELP = """\
Run a suite: every combination of its models, tasks, bases, methods and settings is a cell.

SUITE is a built-in name ('basisbench list suites') or a YAML file. Options replace the suite's lists; those marked
(repeatable) may be given several times. Of the further cells that a suite lists under 'also' those stay whose tasks,
bases and methods are run and whose other lists no option replaces. Cells that are finished in the results folder are
kept, so a run that was stopped goes on where it was; a changed setting, model, dictionary or version makes new cells.

Afterwards the comparison is printed, and written with the pictures next to the records:
  OUT/records/*.json   OUT/summary.csv   OUT/summary.md   OUT/pictures/
"""

_EXAMPLES = """\
examples:
  basisbench run
  basisbench run pocket --task ioi --basis mlp_act --basis transcoder --method relp --examples 50
  basisbench run my-suite.yaml --out results/local/mine --device cuda --jobs 2
  basisbench run --task-file pairs.json --method relp --errors coordinates --errors node
  basisbench run gpt2-small --dry-run             cells, passes, memory, disk and time, as estimates
  basisbench run gpt2-small --limit 6             a smoke test: six cells of 16 pairs
  basisbench run --model EleutherAI/pythia-160m --basis mlp_act --basis mlp_out --method relp
  basisbench run llama-3.1-8b --device cuda --executor ray:auto
"""


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(commands, "run", "run a suite and print the comparison", _HELP, _EXAMPLES)
    parser.add_argument("suite", metavar="SUITE", nargs="?", default="pocket", help="suite to run (default: pocket)")
    what = parser.add_argument_group("what to run, instead of what the suite says")
    for option, metavar, text in (
        (
            "model",
            "MODEL",
            "model: a listed name, ORG/NAME[@REVISION][:FILE.gguf] of the Hugging Face hub, a folder or a GGUF file; "
            "NAME=MODEL calls it NAME (repeatable)",
        ),
        ("task", "TASK", "task (repeatable)"),
        ("basis", "BASIS", "basis (repeatable)"),
        ("method", "METHOD", "attribution method (repeatable)"),
    ):
        what.add_argument(f"--{option}", metavar=metavar, action="append", help=text)
    for option, values, text in (
        ("ablation", get_args(Ablation), "reference value of nodes outside the circuit (repeatable)"),
        ("errors", get_args(ErrorPolicy), "what happens to reconstruction errors (repeatable)"),
        ("score-reference", get_args(ScoreReference), (
            "what a node moves to when it is scored: the ablation's reference, or its counterfactual value (repeatable)"
        )),
        ("granularity", get_args(Granularity), "whether a node has a position (repeatable)"),
    ):  # fmt: skip
        what.add_argument(f"--{option}", choices=values, action="append", help=text)
    what.add_argument("--layers", metavar="LAYERS", help=(
        "restrict every basis to these layers, such as 10-20 or 0-3,7"
    ))  # fmt: skip
    what.add_argument("--held-in", action="store_true", help=(
        "run each cell a second time with scores taken on the evaluation pairs: what new words cost"
    ))  # fmt: skip
    what.add_argument("--bos", choices=get_args(Bos), help=(
        "whether a beginning-of-sequence token stands in front of prompts (default: the suite's; auto: where the "
        "model's tokenizer puts one)"
    ))  # fmt: skip
    what.add_argument("--metric", choices=get_args(Metric), help=(
        "what answers are worth: the logit of one token (default), or the log-probability of answers of several tokens"
    ))  # fmt: skip
    what.add_argument("--task-file", metavar="FILE", action="append", type=Path, default=[], help=(
        "pairs of your own as a task: JSON lines, a JSON list, CSV, or hub:ORG/NAME?... (docs/add-a-task.md); without "
        "--task only such tasks are run (repeatable)"
    ))  # fmt: skip
    what.add_argument("--examples", metavar="N", type=positive, help="pairs per split and task")
    what.add_argument("--seed", type=seed, help="seed of pairs, random scores and random bases")
    what.add_argument("--draws", metavar="N", type=positive, help=(
        "run N draws of attribution pairs, each with means and rankings of its own, on the same evaluation pairs"
    ))  # fmt: skip
    what.add_argument("--halves", metavar="SIZES", type=sizes, help=(
        "ablate random halves of what circuits of these sizes leave out, such as 20,100: do they hit their target by "
        "cancellation?"
    ))  # fmt: skip
    what.add_argument("--adversarial-halves", metavar="BLOCKS", type=positive, nargs="?", const=BLOCKS, help=(
        f"with --halves: search for the halves that move a circuit furthest too, over so many blocks (default: "
        f"{BLOCKS}, which take 352 passes a circuit)"
    ))  # fmt: skip
    how = parser.add_argument_group("how to run it")
    how.add_argument("--out", metavar="DIR", type=Path, default=Path("results/local"), help=(
        "results folder (default: results/local)"
    ))  # fmt: skip
    how.add_argument("--device", default="cpu", help=(
        "cpu (default), cuda, cuda:1, mps, ...; auto spreads a model over all GPUs"
    ))  # fmt: skip
    how.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help=(
        "type of the weights (default: the suite's or the checkpoint's); metrics are float32 in any case"
    ))  # fmt: skip
    how.add_argument("--limit", metavar="N", type=positive, help=(
        "do at most N cells, of as many kinds as possible, with 16 pairs per split: a smoke test"
    ))  # fmt: skip
    how.add_argument("--dry-run", action="store_true", help=(
        "print cells, passes, memory, disk and time as estimates, and write nothing"
    ))  # fmt: skip
    how.add_argument("--allow-poor-fit", action="store_true", help=(
        "run dictionaries that explain nothing on a task's prompts too; they are marked, and get no best mark"
    ))  # fmt: skip
    add_plugin(how)
    how.add_argument("--no-resume", action="store_true", help="run finished cells again")
    how.add_argument("--jobs", metavar="N", type=positive, help=(
        "worker processes; each takes whole tasks, the cores are shared out (default: 2 on a CPU, 1 on a device, "
        "with Ray as many as the cluster has room for)"
    ))  # fmt: skip
    how.add_argument("--executor", metavar="WHERE", default="local", help=(
        "local (default), ray for a Ray cluster on this machine, ray:ADDRESS for a running one (ray:auto, "
        "ray:HOST:6379, ray:ray://HOST:10001)"
    ))  # fmt: skip
    for option, metavar, text in (
        ("gpus", "N", "GPUs of one Ray worker (default: 1 on a CUDA device, else 0)"),
        ("cpus", "N", "cores of one Ray worker (default: 1)"),
        ("memory", "GIB", "memory that one Ray worker reserves, in GiB (default: none)"),
    ):
        how.add_argument(f"--worker-{option}", metavar=metavar, type=float, help=text)


def execute(options: argparse.Namespace) -> None:
    """Run a suite, print the comparison, and write it next to the records with the pictures."""
    from basisbench.pairs.task_rows import task_source
    from basisbench.registry import load_registry
    from basisbench.runs.executor import parse_executor
    from basisbench.runs.run import Request, plan_request, run_request
    from basisbench.runs.runner import RunOptions
    from basisbench.runs.suite import first_draws

    request = Request(
        suite=options.suite,
        changes={
            "models": options.model,
            "tasks": options.task,
            "bases": options.basis,
            "methods": options.method,
            "ablations": options.ablation,
            "error_policies": options.errors,
            "score_references": options.score_reference,
            "score_splits": SPLITS if options.held_in else None,
            "granularities": options.granularity,
            "layers": options.layers,
            "bos": options.bos,
            "metric": options.metric,
            "seeds": None if options.seed is None else (options.seed,),
            "attribution_draws": first_draws(options.draws),
            "subset_sizes": options.halves,
            "subset_blocks": options.adversarial_halves,
            "attribution_pairs": options.examples,
            "evaluation_pairs": options.examples,
        },
        options=RunOptions(
            out=options.out,
            device=options.device,
            dtype=options.dtype,
            resume=not options.no_resume,
            plugins=absolute(options.plugin),
            task_files=tuple(map(task_source, options.task_file)),
            allow_poor_fit=options.allow_poor_fit,
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
        from basisbench.runs.dry_run import estimate_run, render

        plan = plan_request(request)
        print(render(estimate_run(plan, options.jobs), plan))
        return
    outcome = run_request(request)
    if outcome.records:
        _publish(outcome.records, options.out, load_registry(options.plugin).display())
        states = Counter(event.state for event in outcome.events)
        counts = ", ".join(f"{states[state]} {state}" for state in ("finished", "kept", "failed") if states[state])
        print(f"cells: {counts}; {outcome.seconds:.0f} s; records, tables and pictures in {options.out}")
    outcome.raise_failures()


def _publish(records: tuple[Path, ...], out: Path, display: Display) -> None:
    """Print the comparison of this run's cells; write it, and the pictures, into the results folder."""
    from basisbench.plots.pictures import plot_results
    from basisbench.results.compare import csv_text, render_markdown, render_text
    from basisbench.results.frame import read_results, summarise
    from basisbench.results.record import write_whole

    read = read_results(records)
    summary = summarise(read)
    print(render_text(summary, display, width=terminal_width()))
    write_whole(out / "summary.csv", csv_text(summary, display))
    write_whole(out / "summary.md", render_markdown(summary, display))
    plot_results(read, out / "pictures", summary=summary, display=display)
