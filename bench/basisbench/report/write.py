"""Write the page and what it loads, whole or not at all.

1. Lay everything out in memory, then write it into a temporary folder beside the one asked for.
2. Rename it into place. A folder that this command wrote before is replaced, and only if nothing else lies in it; any
   other folder that is not empty is refused.

Data are scripts that hand themselves over by one function call: a page opened from disk may load those. They are JSON
but for the JavaScript words NaN and Infinity.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from basisbench.errors import BasisBenchError
from basisbench.registry import Registry, load_registry
from basisbench.report.detail import field_descriptions
from basisbench.report.findings import findings_html
from basisbench.report.layout import SHOWN, Json, lay_out
from basisbench.report.prompts import example_prompts
from basisbench.report.sources import Source, read_sources
from basisbench.results.frame import PathLike
from basisbench.results.metrics import METRICS
from basisbench.results.record import TEMPORARY_SUFFIX
from basisbench.version import __version__

PAGE = "index.html"
MANIFEST = "report.json"
"""Lists what the command wrote, so that a later call can tell the folder from anybody else's."""

CATALOGUE = "data/catalogue.js"
SCRIPTS = (
    *("core.js", "numbers.js", "rows.js", "table.js", "charts.js"),
    *("lines.js", "answer.js", "curves.js", "cost.js", "nodes.js", "cell.js", "main.js"),
)
"""Scripts of the page, in the order in which it loads them."""

STYLES = ("report.css",)


def write_report(
    results: PathLike | Sequence[PathLike], out: str | os.PathLike[str], *, registry: Registry | None = None
) -> Path:
    """Write a page of results that opens from disk.

    Args:
        results: results folders, folders of records, record files, or trees of those; a folder with a
            `submission.json` is shown as a submission, and the `FINDINGS.md` of a tree is a view of the page.
        out: folder of the page; made, or replaced if an earlier call wrote it and nothing was added.
        registry: where tasks are looked up for example prompts; by default what is installed.

    Returns:
        The page, `out/index.html`.

    Raises:
        RecordError: no record is found, or a record or a submission's card is malformed.
        BasisBenchError: the folder holds anything else, or cannot be written.
    """
    out = Path(out)
    _refuse_strangers(out)
    findings = findings_html(results, out)
    _write(out, _contents(read_sources(results), load_registry() if registry is None else registry, findings))
    return out / PAGE


def _contents(sources: Sequence[Source], registry: Registry, findings: str) -> dict[str, bytes]:
    """Return every file of the page by its path."""
    layout = lay_out(sources, registry.display())
    records = [cell.record for source in sources for cell in source.cells]
    package = files("basisbench") / "report" / "page"
    contents = {name: (package / name).read_bytes() for name in (*SCRIPTS, *STYLES)}
    contents["plotly.min.js"] = (files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    contents[CATALOGUE] = _script("catalogue", layout.catalogue)
    contents["data/fields.js"] = _script("fields", field_descriptions())
    contents["data/prompts.js"] = _script("prompts", example_prompts(records, registry))
    contents |= {f"data/curves-{n}.js": _script(f"curves-{n}", part) for n, part in enumerate(layout.curves)}
    contents |= {f"data/cells-{n}.js": _script(f"cells-{n}", part) for n, part in enumerate(layout.details)}
    contents[PAGE] = _page(sources, layout.catalogue, findings).encode()
    return contents


def _script(name: str, value: object) -> bytes:
    """Write a value as a script; ASCII without angle brackets, so that it stays data wherever it is put."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace(">", "\\u003e")
    return f"basisbench.receive({json.dumps(name)},{text});\n".encode()


def _page(sources: Sequence[Source], catalogue: Json, findings: str) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("basisbench", "report/page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cells = [cell.record for source in sources for cell in source.cells]
    days = sorted(record.created.date().isoformat() for record in cells)
    return environment.get_template("index.html.j2").render(
        version=__version__,
        catalogue=catalogue,
        sources=sources,
        shown=[METRICS[name] for name in SHOWN],
        metrics=list(METRICS.values()),
        models=sorted({record.cell.model for record in cells}),
        tasks=sorted({record.cell.task for record in cells}),
        first=days[0],
        last=days[-1],
        scripts=(SCRIPTS[0], CATALOGUE, *SCRIPTS[1:]),  # what comes later uses it
        styles=STYLES,
        findings=findings,
    )


def _refuse_strangers(out: Path) -> None:
    """Refuse a folder that holds anything that this command did not write.

    Raises:
        BasisBenchError: it does, or it is no folder.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise BasisBenchError(f"{out}: is a file; --out names a folder for the page")
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_symlink() or not path.is_dir()}
    if not found:
        return
    if MANIFEST not in found:
        raise BasisBenchError(f"{out}: holds files that no report wrote; name a new or an empty folder")
    others = sorted(found - {MANIFEST, *_listed(out / MANIFEST)})
    if others:
        raise BasisBenchError(
            f"{out}: holds a report, and {others[0]!r} that no report wrote; move it away or name a new folder"
        )


def _listed(manifest: Path) -> list[str]:
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        return [str(name) for name in content["files"]] if content["written_by"] == "basisbench report" else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _write(out: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a temporary folder and rename it into place."""
    manifest = {"written_by": "basisbench report", "basisbench": __version__, "files": sorted(contents)}
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=TEMPORARY_SUFFIX, dir=out.parent) as working:
            new, old = Path(working) / "new", Path(working) / "old"
            for name, content in {**contents, MANIFEST: json.dumps(manifest, indent=1).encode()}.items():
                path = new / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            if out.exists():
                out.rename(old)
            try:
                new.rename(out)
            except OSError:
                if old.exists():
                    old.rename(out)
                raise
    except OSError as error:
        raise BasisBenchError(f"{out}: cannot be written: {error.strerror or error}") from error
