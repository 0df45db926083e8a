"""Figures of a performance run: ratios inside one run, their bounds, and the file they are kept in."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

import basisbench
from basisbench.runs.environment import processor_name

Work = Callable[[], Any]
_PACKAGES = ("torch", "transformers", "transformer_lens", "sae_lens")


@dataclass(frozen=True)
class Figure:
    """What was measured against what.

    Attributes:
        name: what was measured.
        against: what it is divided by.
        bound: what the ratio must not exceed; None for a figure without a bound.
        ratio: median over rounds, each round timing both sides one after the other.
        low, high: smallest and largest ratio of a round.
        seconds: median seconds of what was measured.
        parts: median seconds of each part of what it is divided by.
    """

    name: str
    against: str
    bound: float | None
    ratio: float
    low: float
    high: float
    seconds: float
    parts: Mapping[str, float]

    @property
    def holds(self) -> bool | None:
        """Whether the bound holds; None without one."""
        return None if self.bound is None else self.ratio <= self.bound


@dataclass
class Figures:
    """Collects the figures of a run."""

    rounds: int
    figures: list[Figure] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def ratio(
        self,
        benchmark: BenchmarkFixture,
        name: str,
        work: Work,
        against: Mapping[str, Work],
        *,
        bound: float | None,
        what: str,
        less: Mapping[str, Work] | None = None,
        rounds: int | None = None,
    ) -> Figure | None:
        """Time work against other work, alternating, so that both meet the same machine.

        Args:
            benchmark: pytest-benchmark's fixture, which times `work`.
            name: what is measured.
            work: what is timed.
            against: the parts of the yardstick, by name; their times are added up.
            bound: what the ratio must not exceed.
            what: the yardstick in words.
            less: parts whose time is taken off the work's, by name.
            rounds: how many at most; those of the run when None.

        Returns:
            None where benchmarks are disabled: everything ran once, nothing was timed.
        """
        off = less or {}
        parts: dict[str, list[float]] = {part: [] for part in (*against, *off)}

        def time_parts() -> None:
            for part, run in (*against.items(), *off.items()):
                start = time.perf_counter()
                run()
                parts[part].append(time.perf_counter() - start)

        benchmark.pedantic(
            work, setup=time_parts, rounds=min(self.rounds, rounds or self.rounds), warmup_rounds=1, iterations=1
        )
        if benchmark.disabled:
            return None
        own = list(benchmark.stats.stats.data)
        parts = {part: seconds[-len(own) :] for part, seconds in parts.items()}  # without the warm-up
        ratios = [
            (own[i] - sum(parts[part][i] for part in off)) / sum(parts[part][i] for part in against)
            for i in range(len(own))
        ]
        figure = Figure(
            name,
            what,
            bound,
            statistics.median(ratios),
            min(ratios),
            max(ratios),
            statistics.median(own),
            {part: statistics.median(seconds) for part, seconds in parts.items()},
        )
        benchmark.extra_info.update(asdict(figure))
        self.figures.append(figure)
        return figure

    def value(self, name: str, against: str, bound: float | None, ratio: float, seconds: float) -> None:
        """Add a figure that was measured otherwise."""
        self.figures.append(Figure(name, against, bound, ratio, ratio, ratio, seconds, {}))

    def write(self, path: Path, workload: Mapping[str, Any]) -> None:
        """Write all figures with the machine's description; an earlier run's in the file are kept."""
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            fresh = {(figure.name, figure.against) for figure in self.figures}
            kept = [
                Figure(**{name: value for name, value in old.items() if name != "holds"})
                for old in before["figures"]
                if (old["name"], old["against"]) not in fresh
            ]
            self.figures = [*kept, *self.figures]
            self.tables = before["tables"] | self.tables
        content = {
            "machine": describe_machine(),
            "workload": dict(workload),
            "rounds": self.rounds,
            "figures": [asdict(figure) | {"holds": figure.holds} for figure in self.figures],
            "tables": self.tables,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_rounded(content), indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(self.markdown(), encoding="utf-8")

    def markdown(self) -> str:
        """Return the figures as a table: median ratio, and the smallest and largest of the rounds."""
        lines = ["| measured | against | bound | ratio | range | seconds |", "| --- | --- | --- | --- | --- | --- |"]
        for figure in self.figures:
            bound = "" if figure.bound is None else f"{figure.bound:g}{'' if figure.holds else ' (missed)'}"
            spread = "" if figure.low == figure.high else f"{figure.low:.2f} to {figure.high:.2f}"
            cells = (figure.name, figure.against, bound, f"{figure.ratio:.3g}", spread, f"{figure.seconds:.3g}")
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, memory, threads and versions."""
    import torch

    return {
        "processor": processor_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "memory_gib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30,
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {package: version(package) for package in _PACKAGES} | {"basisbench": basisbench.__version__},
        "date": time.strftime("%Y-%m-%d"),
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return value
