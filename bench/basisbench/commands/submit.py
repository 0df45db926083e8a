"""Make a submission of results."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from basisbench.commands.options import Commands, absolute, add_command, add_plugin
from basisbench.errors import BasisBenchError

if TYPE_CHECKING:
    from basisbench.registry import Registry
    from basisbench.results.record import PlugIn
    from basisbench.submissions.submission import Checked


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "submit",
        "make a submission of results",
        "Collect the records of a run and what is to be known about them in one folder, check it as 'validate' does,\n"
        "and print the steps of the pull request. Tasks, bases and methods that do not come with BasisBench are run\n"
        "through 'check' on the model of their records, and the report is kept; what fails is not submitted.\n"
        "Nothing is sent. The folder is written whole or not at all.\n"
        "results/README.md has the metadata's fields, the rules for names, and the limits.",
        "examples:\n"
        "  basisbench submit results/local --name my-basis --author 'Ada Lovelace' --licence CC-BY-4.0\n"
        "  basisbench submit results/local --metadata about.yaml --basis-info my_basis.yaml --plugin my_basis.py\n",
    )
    parser.add_argument("results", metavar="RESULTS", nargs="+", type=Path, help="where the records are")
    parser.add_argument("--name", metavar="NAME", help="of the submission: lower-case letters, digits, -, _ and dots")
    parser.add_argument("--title", metavar="TEXT", help="one line that says what is submitted (default: the name)")
    parser.add_argument("--author", metavar="NAME", action="append", default=[], help="an author (repeatable)")
    parser.add_argument("--licence", metavar="SPDX-ID", help="of the records, for example CC-BY-4.0 or CC0-1.0")
    parser.add_argument("--link", metavar="URL", help="paper, page or post about it")
    parser.add_argument("--repository", metavar="URL", help="where the code of your basis or method is")
    parser.add_argument("--revision", metavar="REVISION", help="commit or tag of that code")
    parser.add_argument("--basis-info", metavar="FILE", action="append", default=[], type=Path, help=(
        "YAML or JSON: name of a basis to its parameters and training_cost (repeatable)"
    ))  # fmt: skip
    parser.add_argument("--metadata", metavar="FILE", type=Path, help=(
        "YAML or JSON with any of these fields: name, title, authors, link, code, licence, bases, methods"
    ))  # fmt: skip
    parser.add_argument("--out", metavar="DIR", type=Path, help="the folder (default: results/submissions/NAME)")
    parser.add_argument("--model", metavar="MODEL", help=(
        "model that plug-ins are checked on (default: that of their records)"
    ))  # fmt: skip
    add_plugin(parser)
    parser.add_argument("--task-file", metavar="FILE", action="append", type=Path, default=[], help=(
        "file of pairs that is a task of the records (repeatable)"
    ))  # fmt: skip


def execute(options: argparse.Namespace) -> None:
    """Write a submission and say what to do with it."""
    from basisbench.runs.runner import RunOptions
    from basisbench.submissions.submission import read_submission
    from basisbench.submissions.submit import SubmissionRequest, steps, submit

    files = absolute(options.task_file)
    registry = RunOptions(out=Path(), plugins=absolute(options.plugin), task_files=files).registry()
    code = {"repository": options.repository, "revision": options.revision}
    request = SubmissionRequest(
        results=options.results,
        out=options.out,
        given={
            "name": options.name,
            "title": options.title,
            "authors": options.author,
            "licence": options.licence,
            "link": options.link,
            "code": {name: value for name, value in code.items() if value},
        },
        metadata=options.metadata,
        basis_info=options.basis_info,
        registry=registry,
        checker=partial(_check, registry, options.model),
    )
    submitted = submit(request)
    print(steps(submitted, read_submission(submitted.folder)))


def _check(registry: Registry, model: str | None, kind: PlugIn, name: str, model_of_records: str) -> Checked:
    """Run the contract tests on a plug-in, and say that it takes a while."""
    from basisbench.runs.model_names import find_model
    from basisbench.submissions.submission import Checked
    from basisbench.version import __version__

    try:
        item = registry.get(kind, name)
    except BasisBenchError as error:
        raise BasisBenchError(f"{error}; it has to be checked: give --plugin FILE") from error
    spec = find_model(model or model_of_records, registry)

    from basisbench.checks.check import iterate
    from basisbench.models.load import load_model
    from basisbench.plugin_code import code_digest
    from basisbench.results.schema import printable

    print(f"checking {kind} {name} on {spec.name}", file=sys.stderr, flush=True)
    lines = tuple(printable(str(found))[:2000] for found in iterate(item, load_model(spec)))
    return Checked(
        kind=kind, name=name, model=spec.name, basisbench=__version__, code=code_digest(item), properties=lines
    )
