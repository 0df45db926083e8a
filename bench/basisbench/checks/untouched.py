"""What a thing must leave as it was: no hook, no changed weight, no replaced code, no pass of the model of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING

from basisbench.checks.basis_functions import decoder, encoder
from basisbench.checks.finding import Check, Finding, at_most, nothing
from basisbench.checks.snapshots import Snapshot, take_snapshot
from basisbench.checks.stage import BasisStage, logits_of

if TYPE_CHECKING:
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench.types import Site


def _after_each_step(stage: BasisStage, kind: str, what: str) -> Finding:
    """Compare after building, after encoding alone, after decoding alone, and after a failed call of each."""
    steps = _steps(stage)
    found = [f"after {step}: {name}" for step, before, after in steps for name in before.changes(after, kind)]
    return nothing(found, what)


@cache
def _steps(stage: BasisStage) -> list[tuple[str, Snapshot, Snapshot]]:
    """Take each step, with the state before and after it."""
    import torch

    basis = stage.basis
    site = basis.sites[-1]
    after = take_snapshot(stage.model)
    taken = [("building", stage.before, after)]
    x = stage.read(site)
    f = encoder(basis, site)(x).clone()

    def failing(function: Callable[[Site, Tensor], object], value: Tensor) -> None:
        try:
            function(site, value)
        except Exception:
            return

    for step, act in (
        ("encoding", lambda: encoder(basis, site)(x)),
        ("decoding", lambda: decoder(basis, site)(f)),
        ("a failed encoding", lambda: failing(basis.encode, torch.ones(2, x.shape[-1] + 3))),
        ("a failed decoding", lambda: failing(basis.decode, torch.ones(2, f.shape[-1] + 3))),
    ):
        before, _ = after, act()
        after = take_snapshot(stage.model)
        taken.append((step, before, after))
    return taken


def _at_the_end(stage: BasisStage, kind: str, what: str) -> Finding:
    return nothing(stage.before.changes(_end(stage), kind), what)


@cache
def _end(stage: BasisStage) -> Snapshot:
    return take_snapshot(stage.model)


def _passes(stage: BasisStage) -> Finding:
    """Hold that encoding and decoding run no part of the model."""
    with counted_passes(stage.model) as passes:
        for site in stage.basis.sites:
            x = stage.activation(site.read)
            passes.clear()
            decoder(stage.basis, site)(encoder(stage.basis, site)(x))
            if passes:
                break
    return nothing(passes, "modules run")


@contextmanager
def counted_passes(model: Model) -> Iterator[list[str]]:
    """Collect the names of the modules that run inside the block."""
    ran: list[str] = []
    with ExitStack() as stack:
        for view in (model.body, model.bridge, model.fast_body):
            for name, module in view.named_modules():

                def note(_module: object, _arguments: object, name: str = name) -> None:
                    ran.append(name or "the whole model")

                stack.callback(module.register_forward_pre_hook(note).remove)
        yield ran


def _forward(stage: BasisStage) -> Finding:
    """Hold that all views of the model compute what they computed before the basis was built."""
    tokens = stage.group.evaluation.batch.clean
    now = logits_of(stage.model, tokens)
    worst = max(
        float((after - before).double().abs().max() / before.double().abs().max())
        for before, after in zip(stage.logits_before, now, strict=True)
    )
    return at_most(worst, 1e-6, "logits differ from those before by")


CHECKS: tuple[Check[BasisStage], ...] = (
    Check(
        "hooks",
        "building, encoding and decoding leave no hook on the model, failed calls neither",
        lambda stage: _after_each_step(stage, "hooks", "hooks left"),
    ),
    Check(
        "weights",
        "building, encoding and decoding leave the model's weights as they are",
        lambda stage: _after_each_step(stage, "weights", "weights changed"),
    ),
    Check("passes", "encoding and decoding run no part of the model", _passes),
)
"""Right after the basis was built."""

LAST: tuple[Check[BasisStage], ...] = (
    Check("hooks at the end", "nothing is left on the model", lambda stage: _at_the_end(stage, "hooks", "hooks left")),
    Check(
        "weights at the end",
        "the model's weights are what they were",
        lambda stage: _at_the_end(stage, "weights", "weights changed"),
    ),
    Check(
        "gradients",
        "no weight asks for a gradient or has one",
        lambda stage: _at_the_end(stage, "gradients", "weights"),
    ),
    Check("forward", "all views of the model compute what they computed before", _forward),
    Check(
        "code",
        "no function of the harness, the model or torch was replaced",
        lambda stage: _at_the_end(stage, "code", "functions replaced"),
    ),
    Check(
        "settings",
        "torch's settings and the random states are what they were",
        lambda stage: _at_the_end(stage, "settings", "settings changed"),
    ),
)
"""After everything else."""
