"""Make a submission of results."""

from __future__ import annotations

import argparse
from pathlib import Path

from basisbench.commands.options import Commands, absolute, add_command, add_plugin


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "submit",
        "make a submission of results",
        "Collect the records of a run and what is to be known about them in one folder, check it as 'validate' does,\n"
        "and print the steps of the pull request. Nothing is sent. The folder is written whole or not at all.\n"
        "results/README.md has the metadata's fields, the rules for names, and the limits.",
        "examples:\n"
        "  basisbench submit results/local --name my-basis --author 'Ada Lovelace' --licence CC-BY-4.0\n"
        "  basisbench submit results/local --metadata about.yaml --basis-info my_basis.yaml\n",
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
    add_plugin(parser)


def execute(options: argparse.Namespace) -> None:
    """Write a submission and say what to do with it."""
    from basisbench.registry import load_registry
    from basisbench.submissions.submission import read_submission
    from basisbench.submissions.submit import SubmissionRequest, steps, submit

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
        registry=load_registry(absolute(options.plugin)),
    )
    submitted = submit(request)
    print(steps(submitted, read_submission(submitted.folder)))
