"""The page of a graph in a browser: what it shows, by mouse, by keyboard, on a phone, with thousands of edges."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from basisbench.report import write_graph
from basisbench.results.circuit_graph import CircuitGraph, node_ids
from helpers.graph_schema import SCHEMA
from helpers.graphs import synthetic_graph
from helpers.report_pages import HOSTILE, opened_views

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow

NEXT_FRAME = "() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def graph() -> CircuitGraph:
    """Some nodes of every kind."""
    return synthetic_graph(40, 120, page="https://www.neuronpedia.org/gpt2-small/{layer}-tres-dc/{unit}")


@pytest.fixture(scope="module")
def page_of_graph(graph: CircuitGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its page."""
    return write_graph(graph, tmp_path_factory.mktemp("graph"))


@pytest.fixture
def open_graph(browser: Browser, page_of_graph: Path) -> Iterator[Open]:
    """Open the page; it must not complain, and ask the network for nothing."""
    with opened_views(browser, page_of_graph, shown="#graph .main-svg") as open_view:
        yield lambda **options: open_view("", **options)


def told(page: Page) -> str:
    page.evaluate(NEXT_FRAME)
    return page.inner_text("#told")


def strongest(graph: CircuitGraph, name: str, end: str) -> list[str]:
    """Return the other ends of a node's edges, strongest first."""
    other = "target" if end == "source" else "source"
    edges = sorted(graph.edges, key=lambda edge: -abs(edge.score))
    return [getattr(edge, other) for edge in edges if getattr(edge, end) == name]


def chosen(page: Page, graph: CircuitGraph) -> str:
    """Return the name of the node that the keyboard is at."""
    page.evaluate(NEXT_FRAME)
    return list(node_ids(graph))[page.evaluate("basisbench.graph.state.at")]


def set_slider(page: Page, name: str, value: int) -> None:
    page.locator(f"#{name}").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )
    page.evaluate(NEXT_FRAME)


def test_sliders_keep_the_best(open_graph: Open, graph: CircuitGraph) -> None:
    page = open_graph()
    set_slider(page, "nodes", 10)
    set_slider(page, "edges", 120)
    ids = list(node_ids(graph).values())
    kept = {*ids[: len(graph.nodes.roles) + 10], ids[-1]}
    shown = page.evaluate("basisbench.graph.picture().points.map(point => point.id)")
    assert {*shown} == kept
    assert page.locator("#graph .points path").count() == len(kept)
    lines = page.evaluate("basisbench.graph.picture().lines.map(line => [line.source, line.target])")
    names = node_ids(graph)
    between = [(names[edge.source], names[edge.target]) for edge in graph.edges]
    between = [ends for ends in between if {*ends} <= kept]
    assert [(ids[source], ids[target]) for source, target in lines] == between
    assert page.inner_text("#edges-shown") == f"{len(between)} of 120"
    set_slider(page, "edges", 5)
    assert page.inner_text("#edges-shown") == "5 of 120"
    drawn = page.evaluate("document.getElementById('graph').layout.shapes.map(shape => shape.path ?? '').join('')")
    assert drawn.count("M") == 5


def test_a_click_shows_the_node(open_graph: Open, graph: CircuitGraph) -> None:
    page = open_graph()
    at = next(at for at, node in enumerate(graph.nodes.nodes) if node.unit != "error")
    node = graph.nodes.nodes[at]
    x, y = page.evaluate(
        "index => { const {x, y} = basisbench.graph.nodes[index], plot = document.getElementById('graph');"
        "const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();"
        "return [box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + yaxis.d2p(y)]; }",
        len(graph.nodes.roles) + at,
    )
    page.mouse.move(x + 1, y)
    page.wait_for_selector(".hoverlayer .hovertext")
    page.mouse.click(x, y)
    panel = page.locator("#panel")
    panel.wait_for()
    text = panel.inner_text()
    assert f"layer {node.layer}, unit {node.unit}" in text
    assert node.role in text
    numbers = [float(f"{value:.3g}") for value in (node.score, node.low, node.high) if value is not None]
    assert "{:g} [{:g}, {:g}]".format(*numbers) in text
    for word in (*node.raised, *node.lowered):
        assert word.strip() in text
    assert panel.locator("a").get_attribute("href") == node.address
    assert panel.locator(".prompt").count() == len(node.prompts)
    first = node.prompts[0]
    colours = (
        panel.locator(".prompt")
        .first.locator(".lit")
        .evaluate_all("tokens => tokens.map(token => parseInt(token.style.getPropertyValue('--share')))")
    )
    sign = -1 if (node.clean or 0) < 0 else 1
    top = max(sign * value for value in first.values)
    assert colours == pytest.approx([70 * max(0, sign * value / top) for value in first.values], abs=0.51)
    page.click("#close")
    assert panel.is_hidden()


def test_the_keyboard_walks_along_the_strongest_edges(open_graph: Open, graph: CircuitGraph) -> None:
    page = open_graph()
    page.focus("#graph")
    page.keyboard.press("ArrowUp")
    assert chosen(page, graph) == "node:0"
    ways = strongest(graph, "node:0", "target")
    page.keyboard.press("ArrowDown")
    assert chosen(page, graph) == ways[0]
    page.keyboard.press("ArrowRight")
    assert chosen(page, graph) == ways[1]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert chosen(page, graph) == ways[-1]
    onward = strongest(graph, ways[-1], "source")
    page.keyboard.press("ArrowUp")
    assert chosen(page, graph) == onward[0]
    assert page.locator("#panel").is_hidden()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "panel"
    page.keyboard.press("Escape")
    assert page.locator("#panel").is_hidden()
    assert page.evaluate("document.activeElement.id") == "graph"
    assert told(page)
    page.keyboard.press("Escape")
    assert told(page) == ""


def test_what_is_pinned_is_grouped_drawn_as_one_and_exported(
    open_graph: Open, graph: CircuitGraph, tmp_path: Path
) -> None:
    page = open_graph()
    page.focus("#graph")
    for key in ("ArrowRight", "p", "ArrowRight", "p", "ArrowRight", "p"):
        page.keyboard.press(key)
    assert told(page).endswith(", pinned")
    page.keyboard.press("p")
    assert page.locator("#pinned > li").count() == 2
    page.keyboard.press("g")
    page.keyboard.type("number of the subject")
    page.keyboard.press("Enter")
    assert page.inner_text("#pinned .group-name") == "number of the subject"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("p")
    ids = node_ids(graph)
    with page.expect_download() as download:
        page.click("#save-json")
    download.value.save_as(tmp_path / "graph.json")
    layout = json.loads((tmp_path / "graph.json").read_text(encoding="utf-8"))
    jsonschema.validate(layout, SCHEMA)
    pinned = [ids[f"node:{at}"] for at in (0, 1, 3)]
    assert layout["qParams"]["pinnedIds"] == pinned
    assert layout["qParams"]["supernodes"] == [["number of the subject", *pinned[:2]]]
    assert layout["qParams"]["clickedId"] == pinned[2]
    set_slider(page, "nodes", 0)
    assert page.inner_text("#nodes-shown") == "3 of 40"  # what is pinned stays
    page.check("#only-pinned")
    page.evaluate(NEXT_FRAME)
    picture = page.evaluate("basisbench.graph.picture()")
    assert [point["kind"] for point in picture["points"]] == ["group", "unit"]
    both = {"node:0", "node:1"}
    sums: dict[str, float] = {}
    for edge in graph.edges:
        if (edge.source in both) != (edge.target in both) and "node:3" in (edge.source, edge.target):
            key = "out" if edge.source in both else "in"
            sums[key] = sums.get(key, 0) + edge.score
    found = {"out" if line["from"] == 0 else "in": line["score"] for line in picture["lines"]}
    assert found == pytest.approx(sums)
    page.click("#pinned .group > button")
    assert page.locator("#pinned .group").count() == 0


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_pictures_are_saved(open_graph: Open, ending: str, tmp_path: Path) -> None:
    page = open_graph()
    with page.expect_download() as download:
        page.click(f"#save-{ending}")
    assert download.value.suggested_filename == f"sva-rc-transcoder.{ending}"
    download.value.save_as(tmp_path / "picture")
    content = (tmp_path / "picture").read_bytes()
    if ending == "png":
        assert content.startswith(b"\x89PNG")
        assert len(content) > 20_000
    else:
        assert content.startswith(b"<svg")
        assert b"clause_subject" in content


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_sideways_scrolling(open_graph: Open, scheme: str) -> None:
    page = open_graph(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, color_scheme=scheme
    )  # fmt: skip
    page.focus("#graph")
    for key in ("ArrowRight", "p", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#panel:not([hidden])")
    assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    outside = page.evaluate(
        "() => [...document.querySelectorAll('body *')].filter(part => part.offsetParent && !part.closest('#graph')"
        " && part.getBoundingClientRect().right > 390.5).map(part => part.outerHTML.slice(0, 120))"
    )
    assert outside == []
    box = page.locator("#panel").bounding_box()
    assert box is not None
    assert box["y"] >= 0.4 * 844  # the graph stays in sight
    ground = page.evaluate("document.getElementById('graph').layout.paper_bgcolor")
    assert (ground == "#ffffff") == (scheme == "light")


def test_names_of_strangers_stay_text(browser: Browser, tmp_path: Path) -> None:
    file = write_graph(synthetic_graph(hostile=HOSTILE, page="javascript:window.broken={unit}//{layer}"), tmp_path)
    with opened_views(browser, file, shown="#graph .main-svg") as open_view:
        page = open_view("")
        assert page.inner_text("#title") == f"{HOSTILE}: transcoder"
        page.focus("#graph")
        for key in ("ArrowRight", "p", "Enter"):
            page.keyboard.press(key)
        assert HOSTILE in page.inner_text("#panel")
        assert page.locator("#panel a[href]").count() == 0
        assert page.evaluate("window.broken") is None
        assert page.locator("img").count() == 0


def test_the_page_allows_no_script_but_its_own(browser: Browser, page_of_graph: Path) -> None:
    page = browser.new_page()
    page.goto(page_of_graph.as_uri())
    page.wait_for_selector("#graph .main-svg")
    page.evaluate(
        "() => { const made = document.createElement('script'); made.textContent = 'window.broken = 1';"
        "document.body.append(made); }"
    )
    refused = page.evaluate("fetch('https://example.org').then(() => 'answered', () => 'refused')")
    assert page.evaluate("window.broken") is None
    assert refused == "refused"
    page.close()


EDGES_MS, NODES_MS = 60, 250
"""Most processor time of the page's main thread for a drawing: of other edges, and of other nodes. Measured on two
busy cores: 15 and 65."""


def test_five_hundred_nodes_and_two_thousand_edges_are_fluent(browser: Browser, tmp_path: Path) -> None:
    """However often a slider moves, there is one drawing a frame, and it costs little; the rest is the machine's."""
    graph = synthetic_graph(500, 2000, layers=26)
    assert len(graph.edges) == 2000
    with opened_views(browser, write_graph(graph, tmp_path), shown="#graph .main-svg") as open_view:
        page = open_view("")
        page.evaluate(NEXT_FRAME)
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        for name, most in (("edges", EDGES_MS), ("nodes", NODES_MS)):
            before = _busy(session)
            frames, drawings = page.evaluate(_SWEEP, name)
            spent = 1000 * (_busy(session) - before) / frames
            assert drawings == frames == 12  # of 60 moves
            assert spent <= most, f"{name}: {spent:.0f} ms of processor time a drawing"
        assert re.fullmatch(r"500 of 500", page.inner_text("#nodes-shown"))
        assert re.fullmatch(r"2000 of 2000", page.inner_text("#edges-shown"))


_SWEEP = """async name => {
    const slider = document.getElementById(name);
    performance.clearMarks();
    let frames = 0;
    for (let step = 1; step <= 12; step++) {
        for (let part = 1; part <= 5; part++) {
            slider.value = String(Math.round(slider.max * (step - 1 + part / 5) / 12));
            slider.dispatchEvent(new Event("input", {bubbles: true}));
        }
        await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
        frames += 1;
    }
    return [frames, performance.getEntriesByName("basisbench-graph-drawn").length];
}"""


def _busy(session: Any) -> float:
    """Return the processor time of the page's main thread so far, in seconds."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))
