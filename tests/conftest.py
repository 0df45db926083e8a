"""Shared fixtures, and what a run of the tests says at its end: its memory, and what it had to skip."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING, Any

import pytest

from helpers.oracle_names import ARCHITECTURES

if TYPE_CHECKING:
    import pandas as pd
    from playwright.sync_api import Browser

    from basisbench.circuits.group import GroupPair
    from basisbench.results.record import Record
    from basisbench.types import ModelSpec
    from helpers.report_pages import Opened

# Assertions of helpers, too, are to say what they found.
pytest.register_assert_rewrite("helpers.drawn_figures", "helpers.report_pages", "helpers.submissions")

PEAKS = pytest.StashKey[list[int]]()
"""Most bytes that each process that ran tests has held at once."""
FUNCTION = pytest.StashKey[str]()
"""The test function that ran last."""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Prepare a process that runs tests; one that hands them to workers never loads torch."""
    if session.config.pluginmanager.hasplugin("dsession"):
        return
    # What imports and collection make stays: looking for garbage among it again and again finds none.
    gc.disable()
    from hypothesis import settings

    from helpers.shapes import check_shapes

    check_shapes()  # before anything that computes is imported
    # How long an example takes says nothing on a machine that does other work too; tests/perf measures speed.
    settings.register_profile("basisbench", deadline=None)
    settings.load_profile("basisbench")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what opens a browser, and all architectures but the first: quick tests see a property on one."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        other = parameters.get("architecture", ARCHITECTURES[0]) != ARCHITECTURES[0]
        if other or "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Let garbage be collected from now on, and not be looked for in what is there."""
    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let shapes be checked anew in each test function; its cases, one after the other, share what they have seen.

    What is there when a file's tests begin, a million objects of modules most of all, is looked at no more by the
    collector of garbage, which is called wherever memory runs out or is given back.
    """
    from helpers import shapes

    function, before = item.nodeid.partition("[")[0], item.config.stash.get(FUNCTION, "")
    if function != before:
        shapes.SEEN.clear()
        item.config.stash[FUNCTION] = function
    if function.partition("::")[0] != before.partition("::")[0]:
        gc.collect()
        gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Keep how much memory this process took, in a worker for the process that handed it the tests."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["peak"] = peak
    elif not session.config.pluginmanager.hasplugin("dsession"):
        session.config.stash[PEAKS] = [peak]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Keep the memory that a worker took; end the run at once if it died, for its tests would be missing."""
    if error:
        session = node.config.pluginmanager.getplugin("dsession")
        session.shouldstop = f"worker {node.gateway.id} died, killed perhaps when memory ran short"
    else:
        node.config.stash.setdefault(PEAKS, []).append(node.workeroutput["peak"])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was skipped for want of a browser, and how much memory the largest worker took."""
    skipped = terminalreporter.stats.get("skipped", [])
    if pages := sum("no browser on PATH" in str(report.longrepr) for report in skipped):
        terminalreporter.write_line(
            f"{pages} tests of the page of results were skipped: no chromium on PATH; apt-get install chromium"
        )
    if peaks := config.stash.get(PEAKS, []):
        terminalreporter.write_line(f"largest worker: {max(peaks) / 2**30:.1f} GiB")


@pytest.fixture(autouse=True, scope="session")
def _onednn_wherever_it_can_be() -> Iterator[None]:
    """Let no timing choose between oneDNN's and PyTorch's products: tests run both, and are the same every time."""
    import basisbench.models.onednn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(basisbench.models.onednn, "onednn_is_worth_it", lambda *_shape: True)
        yield


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Let norms and softmax of models in float64 compute in float64."""
    from helpers import oracle

    with oracle.in_double_precision():
        yield


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    """Each architecture that the core is tested on."""
    return str(request.param)


@pytest.fixture(params=[0, 1], ids=["long", "short"])
def group(request: pytest.FixtureRequest, architecture: str) -> GroupPair:
    """Each of the oracle's two groups, of other lengths and numbers of pairs, on its two-layer model."""
    from helpers import oracle

    return oracle.contexts(architecture)[request.param]


@pytest.fixture(params=[0, 1], ids=["long", "short"])
def cross_group(request: pytest.FixtureRequest, architecture: str) -> GroupPair:
    """The same groups on the three-layer model that has a cross-layer transcoder."""
    from helpers import cross_layer_oracle

    return cross_layer_oracle.contexts(architecture)[request.param]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A word tokenizer that knows every word of the built-in tasks."""
    from helpers.tiny_models import build_tiny_tokenizer

    return build_tiny_tokenizer()


@pytest.fixture(scope="session")
def tiny_llama(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A random two-layer Llama."""
    from basisbench.types import ModelSpec
    from helpers.tiny_models import save_checkpoint, tiny_llama_config

    config = tiny_llama_config(tiny_tokenizer, tie_word_embeddings=False)
    folder = save_checkpoint(config, tiny_tokenizer, tmp_path_factory.mktemp("checkpoints") / "tiny-llama", seed=1)
    return ModelSpec(name="tiny-llama", path=str(folder), summary="random Llama for tests")


@pytest.fixture(scope="session")
def tiny_gpt2(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A random two-layer GPT-2: GELU, LayerNorm, learned positions, biases everywhere."""
    from transformers import GPT2Config

    from basisbench.types import ModelSpec
    from helpers.tiny_models import save_checkpoint

    config = GPT2Config(
        vocab_size=len(tiny_tokenizer),
        n_embd=16,
        n_inner=24,
        n_layer=2,
        n_head=4,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    folder = save_checkpoint(config, tiny_tokenizer, tmp_path_factory.mktemp("checkpoints") / "tiny-gpt2", seed=2)
    return ModelSpec(name="tiny-gpt2", path=str(folder), summary="random GPT-2 for tests")


@pytest.fixture
def full_record() -> Record:
    """A valid record of the usual size in which every optional field is filled."""
    from basisbench.results.record import Record
    from basisbench.results.record_fields import SubsetCheck, TopNode
    from helpers.synthetic_records import synthetic_record

    record = synthetic_record("ioi", "transcoder", "relp")
    sizes = record.curve.sizes
    return Record.model_validate(
        {
            **record.model_dump(),
            "cell": {**record.cell.model_dump(), "kl": True, "subset_sizes": (sizes[4],), "subset_draws": 10},
            "curve": {**record.curve.model_dump(), "kl": tuple(3.21234 / (1 + size) for size in sizes)},
            "subset_checks": (SubsetCheck(size=sizes[4], draws=tuple(1.23456 + 0.1 * draw for draw in range(10))),),
            "top_nodes": tuple(
                TopNode(
                    group=record.groups[0].key,
                    layer=index % record.counts.layers,
                    position=index % record.groups[0].positions,
                    role="indirect object",
                    unit="error" if index == 7 else 37 * index,
                    score=3.14159 / (1 + index) * (-1) ** index,
                )
                for index in range(20)
            ),
        }
    )


@pytest.fixture(scope="session")
def frame() -> pd.DataFrame:
    """The frame of a whole suite of synthetic records; to be read only."""
    from basisbench.results.frame import frame_of
    from helpers.synthetic_records import synthetic_suite

    return frame_of(list(synthetic_suite(examples=24)))


@pytest.fixture
def plugin_with(tmp_path: Path) -> Any:
    """Return a function that writes a plug-in file providing the given models, and returns its path."""

    def write(*models: ModelSpec) -> Path:
        lines = [
            "from pathlib import Path",
            "from basisbench.protocols import ModelSpec",
            "PROVIDES = (",
            *(
                f"    ModelSpec(name={model.name!r}, path={model.path!r}, summary={model.summary!r}),"
                for model in models
            ),
            ")",
        ]
        path = tmp_path / "models_for_tests.py"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `basisbench run` draw no pictures, which take longer than a few cells; other tests draw them."""
    monkeypatch.setattr("basisbench.plots.pictures.plot_results", lambda *_, **__: [])


@pytest.fixture(scope="session")
def written_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of results, to be read only: a reference run, and a submission of another basis."""
    from helpers.submissions import write_results

    return write_results(tmp_path_factory.mktemp("tree"))


@pytest.fixture
def tree(written_tree: Path, tmp_path: Path) -> Path:
    """A copy of that tree."""
    return Path(copytree(written_tree, tmp_path / "results"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser without a window; a module has one of its own, so that no event loop runs in the tests of others."""
    from playwright.sync_api import sync_playwright

    from helpers.report_pages import browser_path

    path = browser_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def page_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of results that `page_file` shows."""
    from helpers.report_pages import write_tree

    folder = tmp_path_factory.mktemp("results")
    write_tree(folder)
    return folder


@pytest.fixture(scope="session")
def reference(page_tree: Path) -> pd.DataFrame:
    """The summary of the reference run of `page_tree`; to be read only."""
    from basisbench.report.sources import read_sources
    from basisbench.results.frame import summarise

    return summarise([cell.record for cell in read_sources(page_tree)[0].cells])


@pytest.fixture(scope="session")
def page_file(page_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of results of `page_tree`."""
    from basisbench.report import write_report

    return write_report(page_tree, tmp_path_factory.mktemp("report") / "page")


@pytest.fixture
def opened(browser: Browser, page_file: Path) -> Iterator[Opened]:
    """Open a view; whatever the test does, the page must not complain and must not ask the network for anything."""
    from helpers.report_pages import opened_views

    with opened_views(browser, page_file) as open_view:
        yield open_view
