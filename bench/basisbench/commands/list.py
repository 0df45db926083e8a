"""List what is registered."""

from __future__ import annotations

import argparse
import textwrap

from basisbench.commands.options import Commands, absolute, add_command, add_plugin, terminal_width
from basisbench.registry import PLURALS, load_registry

NODES = "nodes of any basis (run, nodes, steer):"
EDGES = "edges between nodes of any basis, each node one coordinate (edges, graph):"
"""What methods apply to, and the commands that take them."""


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "list",
        "list models, tasks, bases, methods or suites",
        "List what is there, one per line: its name and what it is. Methods come with what they score.",
        "example:\n  basisbench list bases\n",
    )
    parser.add_argument("kind", choices=["models", "tasks", "bases", "methods", "suites"], help="what to list")
    add_plugin(parser)


def execute(options: argparse.Namespace) -> None:
    """Print the names and summaries of one kind of thing; of methods, what they score and where they are used."""
    if options.kind == "suites":
        from basisbench.runs.suite import list_suites

        parts = {"": [(suite.name, suite.summary) for suite in list_suites()]}
    else:
        kind = next(kind for kind, plural in PLURALS.items() if plural == options.kind)
        registry = load_registry(absolute(options.plugin))
        parts = {"": [(entry.name, entry.summary) for entry in registry.listing(kind)]}
    if options.kind == "methods":
        from basisbench.attribution.edge_scores import EDGE_METHODS

        parts = {NODES: parts[""], EDGES: sorted(EDGE_METHODS.items())}
    width = max((len(name) for rows in parts.values() for name, _ in rows), default=0)
    for number, (title, rows) in enumerate(parts.items()):
        if title:
            print("\n" * bool(number) + title)
        for name, summary in rows:
            room = max((terminal_width() or 10_000) - width - 2, 24)
            first, *more = textwrap.wrap(summary, room) or [""]
            print(f"{name:<{width}}  {first}", *(" " * (width + 2) + line for line in more), sep="\n")
