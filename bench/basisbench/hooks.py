"""One context manager for every intervention: edit activations at named places, and always clean up.

A place is one end of a module of the plain Hugging Face model. Hooks are ordinary PyTorch hooks on those
modules, which costs less than a hook point per activation (measured: 206 ms against 244 ms for a
GPT-2-small-shaped forward with 12 edits).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

Edit = Callable[["Tensor"], "Tensor | None"]
"""Takes the activation at a place; returns its replacement, or None to leave it as it is."""


@dataclass(frozen=True)
class Place:
    """One end of a module: the tensor that enters it or the tensor that leaves it.

    Attributes:
        module: dotted name of the module in the Hugging Face model.
        end: "in" for the first positional argument, "out" for the (first) output.
    """

    module: str
    end: Literal["in", "out"]


@contextmanager
def edited(body: nn.Module, edits: Mapping[Place, Edit]) -> Iterator[None]:
    """Apply edits to every forward pass inside the block; every hook is removed on the way out.

    Args:
        body: the plain model whose modules are named by the places.
        edits: what to do at each place, in no particular order.
    """
    with ExitStack() as stack:
        for place, edit in edits.items():
            module = body.get_submodule(place.module)
            hook = _input_hook(edit) if place.end == "in" else None
            handle = (
                module.register_forward_pre_hook(hook)
                if hook is not None
                else module.register_forward_hook(_output_hook(edit))
            )
            stack.callback(handle.remove)
        yield


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a module compute something else inside the block; its hooks run as ever, and it is left as it was."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _input_hook(edit: Edit) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
    def hook(_module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        replacement = edit(arguments[0])
        return None if replacement is None else (replacement, *arguments[1:])

    return hook


def _output_hook(edit: Edit) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
    def hook(_module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            replacement = edit(output[0])
            return None if replacement is None else (replacement, *output[1:])
        return edit(output)

    return hook


@contextmanager
def observed(body: nn.Module, places: Mapping[str, Place]) -> Iterator[dict[str, Tensor]]:
    """Collect the activations at named places during one forward pass inside the block.

    Args:
        body: the plain model.
        places: the places to watch, by any key.

    Yields:
        A dictionary that holds each key's activation once the forward pass has gone by it.
    """
    seen: dict[str, Tensor] = {}
    by_place: dict[Place, list[str]] = {}
    for key, place in places.items():
        by_place.setdefault(place, []).append(key)

    def watch(keys: list[str]) -> Edit:
        def edit(activation: Tensor) -> None:
            for key in keys:
                seen[key] = activation

        return edit

    with edited(body, {place: watch(keys) for place, keys in by_place.items()}):
        yield seen
