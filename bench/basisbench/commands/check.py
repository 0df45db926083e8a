"""Run the contract tests on a task, a basis or a method."""

from __future__ import annotations

import argparse

from basisbench.commands.options import Commands, absolute, add_command, add_plugin

_HELP = """\
Run the contract tests on a task, a basis or a method and print a line per property: what was checked, the measured
value, its bound, and whether it holds. THING is a registered name, MODULE:NAME or FILE.py:NAME, where NAME is an object
or a tuple of them such as PROVIDES. With --plugin FILE and no THING, everything that the file provides is checked.

A basis is tried as a function (same again, row by row, coordinates alone, affine decoder), inside the model
(write-back, both ends of the curve, fast path against a plain one), and for what it leaves behind (hooks, changed
weights and settings).
The exit code is 2 where a property fails.
"""

_EXAMPLES = """\
examples:
  basisbench check mlp_act
  basisbench check my_package:PROVIDES
  basisbench check my_basis.py:PROVIDES --model EleutherAI/pythia-70m-deduped
  basisbench check --plugin my_method.py
"""


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(commands, "check", "run the contract tests on a task, a basis or a method", _HELP, _EXAMPLES)
    parser.add_argument("thing", metavar="THING", nargs="?", help="a registered name, MODULE:NAME or FILE.py:NAME")
    parser.add_argument("--model", metavar="MODEL", help=(
        "model that it is tried on: a listed name, ORG/NAME[@REVISION], a folder or a GGUF file (default: the "
        "one that ships with BasisBench)"
    ))  # fmt: skip
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, mps, ...")
    add_plugin(parser)


def execute(options: argparse.Namespace) -> int:
    """Print a line per property; return 2 where one fails."""
    from basisbench.checks.find import find_things
    from basisbench.registry import load_registry
    from basisbench.runs.model_names import find_model

    plugins = absolute(options.plugin)
    registry = load_registry(plugins)
    things = find_things(options.thing, registry, plugins)
    spec = find_model(options.model, registry)

    from basisbench.checks.check import iterate
    from basisbench.models.load import load_model

    failed = total = 0
    for thing in things:
        # Loaded anew for each: what one leaves behind must not fall on the next.
        heading = ""
        for found in iterate(thing, load_model(spec, device=options.device)):
            if found.thing != heading:
                heading = found.thing
                print(f"{heading} on {spec.name}", flush=True)
            print(f"  {found}", flush=True)
            total += found.outcome != "info"
            failed += not found.holds
    print(f"{total - failed} properties hold, {failed} failed")
    return 2 if failed else 0
