"""Pin a suite's repositories to their commits."""

from __future__ import annotations

import argparse
from pathlib import Path

from basisbench.commands.options import Commands, absolute, add_command, add_plugin


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "pin",
        "pin a suite's repositories to their commits",
        "Write a copy of a suite in which every repository of the Hugging Face hub, of models and of dictionaries, is\n"
        "pinned to the commit that it has now: on the hub, or in the cache where the hub cannot be reached.",
        "example:\n  basisbench pin gemma-2-2b --out gemma-2-2b.yaml\n",
    )
    parser.add_argument("suite", metavar="SUITE", help="name of a suite, or a suite file")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the copy")
    add_plugin(parser)


def execute(options: argparse.Namespace) -> None:
    """Write a suite with every repository pinned to a commit."""
    from basisbench.registry import load_registry
    from basisbench.runs.pin import pin_suite

    registry = load_registry(absolute(options.plugin))
    revisions = pin_suite(options.suite, registry, options.out)
    for repository, commit in revisions.items():
        print(f"{repository}  {commit}")
    print(f"{len(revisions)} repositories pinned in {options.out}")
