"""The `basisbench` command: arguments and errors; the commands are modules of `basisbench.commands`.

Exit codes: 0 done, 2 a mistake in the input, failed cells or bad records (a line each on standard error), 130
interrupted. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basisbench.commands import COMMANDS
from basisbench.errors import OUT_OF_MEMORY, BasisBenchError, lacks_memory
from basisbench.version import __version__

DESCRIPTION = """\
BasisBench: which basis gives the sparsest faithful circuit of a language model, and at what cost?

Neurons, SAEs and transcoders, scored by several attribution methods, are compared on the same model, the same
task and the same sites. A run leaves one JSON record per cell; tables and pictures are made from records.
"""

EXAMPLES = """\
examples:
  basisbench run                                  the default suite: all tasks and bases on the pocket model
  basisbench run --task ioi --method relp         one task, one method
  basisbench list bases                           what there is
  basisbench show ioi --model pocket-llama -n 2   two pairs of a task, as the model sees them
  basisbench compare results/local                a table of the results
  basisbench plot results/local --out pictures    pictures of the results
  basisbench report results/local --out page      a page of the results, to open in a browser
  basisbench new basis my_basis                   a package for a basis of your own
  basisbench check my_basis                       measure the contract that it must keep
  basisbench validate results/local               check the records, without a model
  basisbench verify results/local --by NAME       re-run a random sample of the records

'basisbench COMMAND --help' tells more about a command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: the words after `basisbench`; those of the process when None.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open to the end
    options = build_parser().parse_args(arguments)
    try:
        code: int | None = _command(options.command).execute(options)
        sys.stdout.flush()
    except BasisBenchError as error:
        from basisbench.results.schema import printable

        # A message may quote a file's name, or what it holds: nothing of it may steer the terminal.
        print(f"basisbench: error: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"basisbench: interrupted{_KEPT.get(options.command, '')}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, for example `head`, has seen enough
        _write_no_more()
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _write_no_more()
        print(f"basisbench: error: the output cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    except (MemoryError, ImportError) as error:
        if not lacks_memory(error):
            raise
        print(f"basisbench: error: {OUT_OF_MEMORY}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(2)  # libraries that are loaded by half may crash when they are unloaded
    return code or 0


_KEPT = {
    "run": "; finished cells are kept, the same command goes on from here",
    "train": "; the same command goes on from here, or begins again where no step was taken yet",
    "tune": "; the same command goes on from here",
}
"""By command, what is left when it is interrupted."""


def _write_no_more() -> None:
    """Send what is left of the output nowhere, so that the interpreter does not fail on it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        "basisbench", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"basisbench {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        _command(name).add(commands)
    return parser


def _command(name: str) -> Any:
    return importlib.import_module(f"basisbench.commands.{name}")


if __name__ == "__main__":
    sys.exit(main())
