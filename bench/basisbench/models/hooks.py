"""One context manager for every intervention: edit activations at named places, and always clean up.

A place is one end of a module of the plain Hugging Face model. Hooks are ordinary PyTorch hooks on those
modules, which costs less than a hook point per activation (measured: 206 ms against 244 ms for a
GPT-2-small-shaped forward with 12 edits).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Kept = TypeVar("Kept")

Edit = Callable[["Tensor"], "Tensor | None"]
"""Takes the activation at a place; returns its replacement, or None to leave it as it is."""


@dataclass(frozen=True)
class Place:
    """One end of a module: the tensor that enters it or the tensor that leaves it.

    Attributes:
        module: dotted name of the module in the Hugging Face model.
        end: "in" for the first argument, given by position or as `hidden_states`; "out" for the (first) output.
    """

    module: str
    end: Literal["in", "out"]


@contextmanager
def edited(body: nn.Module, edits: Mapping[Place, Edit]) -> Iterator[None]:
    """Apply edits to every forward pass inside the block; every hook is removed on the way out.

    A model that is spread over several devices computes each block on its own; edits see every activation on the
    device of the embeddings, where references and dictionaries are.

    Args:
        body: the plain model whose modules are named by the places.
        edits: what to do at each place, in no particular order.
    """
    if getattr(body, "hf_device_map", None):
        main = next(body.parameters()).device
        edits = {place: moved_edit(edit, main) for place, edit in edits.items()}
    with _hooked(body, edits):
        yield


def moved_edit(edit: Edit, main: torch.device) -> Edit:
    """Return an edit that sees activations on one device, wherever they are, and puts replacements back there."""

    def moved(activation: Tensor) -> Tensor | None:
        replacement = edit(activation.to(main))
        return None if replacement is None else replacement.to(activation.device)

    return moved


@contextmanager
def _hooked(body: nn.Module, edits: Mapping[Place, Edit]) -> Iterator[None]:
    with ExitStack() as stack:
        for place, edit in edits.items():
            module = body.get_submodule(place.module)
            handle = (
                module.register_forward_pre_hook(_input_hook(edit), with_kwargs=True)
                if place.end == "in"
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


Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What a module is called with: by position and by name."""


def _input_hook(edit: Edit) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Arguments | None]:
    def hook(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Arguments | None:
        replacement = edit(arguments[0] if arguments else keywords["hidden_states"])
        if replacement is None:
            return None
        if arguments:
            return (replacement, *arguments[1:]), keywords
        return arguments, {**keywords, "hidden_states": replacement}

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
        A dictionary that holds each key's activation once the forward pass has gone by it, on the device where it was
        computed: gradients can be taken there.
    """
    with watched(body, places, lambda activation: activation) as seen:
        yield seen


@contextmanager
def watched(body: nn.Module, places: Mapping[str, Place], keep: Callable[[Tensor], Kept]) -> Iterator[dict[str, Kept]]:
    """Collect something of the activations at named places, as `observed` does of all of them.

    Args:
        body: the plain model.
        places: the places to watch, by any key.
        keep: makes of an activation what is kept of it.
    """
    seen: dict[str, Kept] = {}
    by_place: dict[Place, list[str]] = {}
    for key, place in places.items():
        by_place.setdefault(place, []).append(key)

    def watch(keys: list[str]) -> Edit:
        def edit(activation: Tensor) -> None:
            for key in keys:
                seen[key] = keep(activation)

        return edit

    with _hooked(body, {place: watch(keys) for place, keys in by_place.items()}):
        yield seen
