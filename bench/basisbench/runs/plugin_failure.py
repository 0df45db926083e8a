"""A plug-in that fails takes its own cell along and no other.

1. What a method returns is checked: a score for every node, finite. What a basis returns is checked where coordinates
   are made (`basisbench.attribution.values`).
2. An exception in a cell that uses somebody's plug-in is told in one line, whatever it is; SystemExit and
   KeyboardInterrupt too, unless the user has pressed Ctrl-C. Where every part ships with BasisBench it is a bug of ours
   and goes up.
3. PyTorch counts the changes that are made to a tensor in place. Tensors that were handed out and the model's weights
   are compared after each cell by that count, which costs nothing, and from the first cell with somebody's plug-in on
   by the sum of their bits as well, for `.data` and NumPy are not counted. A cell that changed one fails, and the
   runner makes what was shared anew.
4. PyTorch's settings of the process are put back, and a cell that changed one fails
   (`basisbench.models.torch_settings`).
"""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from basisbench.errors import BasisBenchError, BasisError
from basisbench.plugin_code import is_built_in, module_of
from basisbench.protocols import BasisSpec, Method, Task
from basisbench.types import WITHOUT_ERROR_NODES, ErrorPolicy, Scores

if TYPE_CHECKING:
    from types import FrameType

    from torch import Tensor

    from basisbench.circuits.circuit import Reference
    from basisbench.models.model import Model
    from basisbench.protocols import Basis

PlugIn: TypeAlias = "Task | BasisSpec | Method"


def check_scores(scores: object, method: Method, basis: Basis, positions: int, error_policy: ErrorPolicy) -> Scores:
    """Return the scores of a method if they have a finite number for every node.

    Args:
        scores: what the method returned.
        method: the method.
        basis: the basis that was scored.
        positions: positions of the group.
        error_policy: says what error nodes are.

    Returns:
        The scores; without errors where these are no nodes.

    Raises:
        BasisBenchError: tells what is wrong.
    """
    import torch

    as_nodes = error_policy not in WITHOUT_ERROR_NODES

    def refuse(problem: str) -> BasisBenchError:
        return BasisBenchError(f"method '{method.name}' on basis '{basis.name}': {problem}")

    if not isinstance(scores, Scores):
        raise refuse(f"score gives {type(scores).__name__}, expected Scores")
    if basis.exact and scores.errors is not None:
        raise refuse("errors are given, but the basis is exact")
    if not basis.exact and as_nodes and scores.errors is None:
        raise refuse("errors are missing")
    if not as_nodes:
        scores = Scores(scores.units, None)
    for name, given in (("units", scores.units), ("errors", scores.errors)):
        if given is None and name == "errors":
            continue
        if not isinstance(given, tuple | list):
            raise refuse(f"{name} is {type(given).__name__}, expected a tuple of tensors")
        if len(given) != len(basis.sites):
            raise refuse(f"{name} has {len(given)} tensors, expected one for each of {len(basis.sites)} sites")
        for site, values in zip(basis.sites, given, strict=True):
            shape = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
            whole = name == "errors" and error_policy == "node"
            if not isinstance(shape, tuple) or len(shape) != 2 or shape[0] != positions or (whole and shape[1] != 1):
                expected = f"({positions}, {1 if whole else name})"
                raise refuse(f"{name} at {site.write} are {shape}, expected a tensor of shape {expected}")
            if not values.is_floating_point() or not bool(values.isfinite().all()):
                raise refuse(f"{name} at {site.write} are not all finite numbers")
    return scores


def check_widths(
    units: Sequence[Tensor],
    errors: Sequence[Tensor] | None,
    method: Method,
    basis: Basis,
    reference: Reference,
    error_policy: ErrorPolicy,
) -> None:
    """Hold that a method has scored as many units and error nodes at each site as there are.

    Args:
        units: something per site whose last axis are the scored units.
        errors: the same for error nodes.
        method: the method.
        basis: the basis.
        reference: reference values of the basis.
        error_policy: says whether an error is one node, or as many as the write site has coordinates. A method that
            gives one score under the second would have a whole vector for the price of a node.

    Raises:
        BasisBenchError: tells the site.
    """
    for site, scored, values in zip(basis.sites, units, reference.units, strict=True):
        if scored.shape[-1] != values.shape[-1]:
            raise BasisBenchError(
                f"method '{method.name}' on basis '{basis.name}': {scored.shape[-1]} units are scored at {site.write}, "
                f"expected {values.shape[-1]}"
            )
        if not bool(values.isfinite().all()):
            raise BasisError(f"basis '{basis.name}': coordinates at {site.read} are not all finite numbers")
    for site, scored, values in zip(basis.sites, errors or (), reference.errors or (), strict=False):
        expected = 1 if error_policy == "node" else values.shape[-1]
        if scored.shape[-1] != expected:
            raise BasisBenchError(
                f"method '{method.name}' on basis '{basis.name}': {scored.shape[-1]} error nodes are scored at "
                f"{site.write}, expected {expected} under the error policy {error_policy}"
            )


def state_of(model: Model) -> tuple[int, ...]:
    """Return counts that change when somebody changes a model's weights in place or leaves a hook on it."""
    counts = [parameter._version for parameter in model.body.parameters()]
    # Of the bridge the hook points alone: its first pass puts hooks of its own on other modules.
    for module in (*model.body.modules(), *model.hook_points.values()):
        counts.append(len(module._forward_hooks) + len(module._forward_pre_hooks))
    return tuple(counts)


@contextmanager
def watching_interrupts() -> Iterator[list[int]]:
    """Note the user's Ctrl-C inside the block, which tells it from a KeyboardInterrupt that a plug-in raises.

    Yields:
        The signals that have arrived; outside the main thread, where none can be noticed, one to be on the safe side.
    """
    arrived: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield arrived if before == signal.SIG_IGN else [signal.SIGINT]
        return

    def note(number: int, frame: FrameType | None) -> Any:
        arrived.append(number)
        return before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield arrived
    finally:
        signal.signal(signal.SIGINT, before)


def plugin_failure(error: BaseException, parts: Sequence[PlugIn], *, interrupted: bool) -> str:
    """Return in one line how a plug-in failed; where every part ships with BasisBench the error goes up.

    Args:
        error: what was raised in the cell.
        parts: the cell's task, basis and method.
        interrupted: whether the user has pressed Ctrl-C (`watching_interrupts`), which goes up too.
    """
    others = [part for part in parts if not is_built_in(part)]
    if not others or (isinstance(error, KeyboardInterrupt) and interrupted):
        raise error
    files = {str(getattr(module_of(part), "__file__", "")): part for part in others}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    lines = _text(error).strip().splitlines()
    told = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    if frames:
        frame = frames[-1]
        return f"{_title(files[frame.filename])} failed: {told:.300} ({Path(frame.filename).name}, line {frame.lineno})"
    return f"{' and '.join(map(_title, others))} failed: {told:.300}"


@contextmanager
def plugin_failures_as_errors(parts: Sequence[PlugIn]) -> Iterator[None]:
    """Tell in one line whatever a plug-in raises in the block.

    Args:
        parts: task, basis and method that the block may call.

    Raises:
        BasisBenchError: one that does not ship with BasisBench has failed.
    """
    with watching_interrupts() as interrupts:
        try:
            yield
        except BasisBenchError:
            raise
        except BaseException as error:
            raise BasisBenchError(plugin_failure(error, parts, interrupted=bool(interrupts))) from error


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # the exception is the plug-in's own
        return ""


def _title(part: PlugIn) -> str:
    kind = "basis" if isinstance(part, BasisSpec) else "method" if hasattr(part, "score") else "task"
    return f"{kind} '{part.name}'"
