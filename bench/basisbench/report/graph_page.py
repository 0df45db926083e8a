"""Write a circuit's graph: a page that needs nothing but itself, and the files that other programs read.

The page is one file: its style, its scripts, plotly.js and the graph stand in it. Names and words in the graph may come
from strangers: its data are no script, the page's scripts only ever set text, and a policy allows no script but these.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from importlib.resources import files
from pathlib import Path

from basisbench.errors import refuse_file
from basisbench.report.graph_places import place_nodes
from basisbench.results.circuit_graph import CircuitGraph, Json, circuit_tracer_layout, graphml, label_of, node_ids
from basisbench.results.circuit_nodes import CircuitNode, unit_name
from basisbench.results.record import write_whole
from basisbench.version import __version__

PAGE, LAYOUT, GRAPHML = "graph.html", "graph.json", "graph.graphml"

SCRIPTS = ("core.js", "numbers.js", "graph-state.js", "graph-draw.js", "graph-panel.js", "graph.js")
"""Scripts of the page, in the order in which they run."""

STYLES = ("report.css", "graph.css")


def write_graph(graph: CircuitGraph, out: str | os.PathLike[str]) -> Path:
    """Write a graph as a page, as JSON in circuit-tracer's layout, and as GraphML.

    Args:
        graph: what `basisbench.graph` returns.
        out: folder of `graph.html`, `graph.json` and `graph.graphml`; made where it is missing, and files of these
            names in it are replaced.

    Returns:
        The page, `out/graph.html`.

    Raises:
        BasisBenchError: the folder is a file, or cannot be written.
    """
    out = Path(out)
    refuse_file(out, "--out names a folder for the graph")
    layout = circuit_tracer_layout(graph)
    written = {
        LAYOUT: json.dumps(layout, indent=1, ensure_ascii=False) + "\n",
        GRAPHML: graphml(graph),
        PAGE: _page(graph, layout),
    }
    for name, text in written.items():
        write_whole(out / name, text)
    return out / PAGE


def page_data(graph: CircuitGraph, layout: Json) -> Json:
    """Return what the page shows: nodes in the order tokens, nodes best first, logits; edges best first, by index."""
    found, ids, places = graph.nodes, node_ids(graph), place_nodes(graph)
    order = {name: at for at, name in enumerate(ids)}
    roles = len(found.roles)
    nodes: list[Json] = [
        {"kind": "token", "name": name, "role": name, "token": token}
        for name, token in zip(found.roles, graph.tokens, strict=True)
    ]
    nodes += [_shown(node) for node in found.nodes]
    nodes.append({"kind": "logits", "name": "answer - foil", "role": found.roles[-1]})
    for node, name, (x, y) in zip(nodes, ids.values(), places.points, strict=True):
        node |= {"id": name, "x": x, "y": y}
    cell = found.cell
    return {
        "title": f"{cell.task}: {cell.basis}",
        "about": f"{cell.model}, {len(found.nodes)} best nodes of {cell.basis} under {cell.method}, "
        f"{len(graph.edges):,} of {graph.scored:,} edges under {graph.method}; scores in logits",
        "prompt": graph.prompt,
        "draws": found.draws,
        "first": roles,
        "nodes": nodes,
        "edges": [[order[edge.source], order[edge.target], edge.score] for edge in graph.edges],
        "columns": [
            {"name": column.name, "token": token, "start": column.start, "length": column.length}
            for column, token in zip(places.columns, graph.tokens, strict=True)
        ],
        "bands": [{"name": band.name, "start": band.start, "length": band.length} for band in places.bands],
        "layout": layout,
    }


def _shown(node: CircuitNode) -> Json:
    values: Json = node.model_dump(mode="json", exclude={"unit", "coordinate", "groups", "token"})
    kind = "error" if node.unit == "error" else "unit"
    return values | {"kind": kind, "name": unit_name(node), "label": label_of(node)}


def _page(graph: CircuitGraph, layout: Json) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    package = files("basisbench") / "report" / "page"
    plotly = (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    scripts = [plotly, *((package / name).read_text(encoding="utf-8") for name in SCRIPTS)]
    scripts = [script.replace("</script", "<\\/script").replace("<!--", "<\\!--") for script in scripts]
    data = json.dumps(page_data(graph, layout), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    environment = Environment(
        loader=PackageLoader("basisbench", "report/page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    cell = graph.nodes.cell
    return environment.get_template("graph.html.j2").render(
        version=__version__,
        title=f"{cell.task}: {cell.basis}",
        styles=[Markup((package / name).read_text(encoding="utf-8")) for name in STYLES],
        scripts=[Markup(script) for script in scripts],
        allowed=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        data=Markup(data.replace("<", "\\u003c").replace(">", "\\u003e")),
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
