"""Make a package for a new task, basis or method."""

from __future__ import annotations

import argparse
from pathlib import Path

from basisbench.commands.options import Commands, add_command

_HELP = """\
Make a package for a new task, basis or method: a folder with pyproject.toml, README, a module and a test. The module is
a small, complete example to be replaced by your own idea; it works on any model. Installed, the package registers
itself under NAME, and 'basisbench check NAME' runs the contract tests on it.
"""

_EXAMPLES = """\
examples:
  basisbench new basis my_basis
  basisbench new method my_method --out ~/code/my-method
"""


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(commands, "new", "make a package for a new task, basis or method", _HELP, _EXAMPLES)
    parser.add_argument("kind", choices=["task", "basis", "method"], help="what the package provides")
    parser.add_argument("name", metavar="NAME", help="name of the thing and of its module, for example my_basis")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder to make (default: NAME)")


def execute(options: argparse.Namespace) -> None:
    """Write the package and print what to do next."""
    from basisbench.commands.scaffold import make_package
    from basisbench.registry import PLURALS, load_registry

    out = Path(options.name) if options.out is None else options.out.expanduser()
    folder = make_package(options.kind, options.name, load_registry(), out)
    print(f"{folder}: a {options.kind} named '{options.name}'")
    for line in (
        f"python -m pip install -e {folder}",
        f"basisbench list {PLURALS[options.kind]}",
        f"basisbench check {options.name}",
        f"basisbench run --{options.kind} {options.name} --out results/local/mine",
    ):
        print(f"  {line}")
