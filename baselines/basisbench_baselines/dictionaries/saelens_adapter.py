"""Adapt a SAELens dictionary to a basis: stateless, and with a decoder that is affine in the coordinates alone.

Most dictionaries are so already. The others get coordinates besides their features, so that nothing the dictionary
knows about its input is lost or smuggled past the circuit; they are units like any other, counted and ranked.

| kind | features | further units | their decoder rows |
| --- | --- | --- | --- |
| `layer_norm` | f * std | std, mean | b_dec, ones |
| `constant_norm_rescale` | f * norm / sqrt(d) | norm / sqrt(d) | b_dec |
| skip transcoder | f | the input x, d_read units | W_skip |
| trained on a centred residual stream | f | mean of x | ones |

1. SAELens normalises x to u = (x - mean) / (std + 1e-5), with std over d_model - 1 degrees of freedom, and returns
   (f @ W_dec + b_dec) * std + mean: the same sum, with f * std, std and mean as coordinates.
   For a `constant_norm_rescale` it is u = x * sqrt(d) / norm and (f @ W_dec + b_dec) * norm / sqrt(d).
2. A skip transcoder's output is f @ W_dec + b_dec + x @ W_skip.T: linear in f and x.
3. Centring the weights that write to the residual stream makes it x - mean(x). What a dictionary of such a stream
   does not explain on the published model is the same as on the processed one once the mean is a coordinate; the
   model's LayerNorms remove the mean, so that ablating it changes nothing.
4. Linear maps of the input (centring, dividing by a norm's gain) are folded into the encoder, as SAELens folds its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from basisbench.errors import BasisError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float
    from torch import Tensor

Normalisation = Literal["none", "layer_norm", "constant_norm_rescale"]

_EPSILON = 1e-5
"""SAELens's, in saes/sae.py; added on the way in only."""

_KINDS = (
    "standard",
    "gated",
    "topk",
    "abstopk",
    "jumprelu",
    "matching_pursuit",
    "transcoder",
    "jumprelu_transcoder",
    "skip_transcoder",
    "jumprelu_skip_transcoder",
    "topk_transcoder",
    "topk_skip_transcoder",
)
"""SAELens's inference architectures; it saves BatchTopK and Matryoshka dictionaries as "jumprelu", with a threshold.
The last two are ours (`dictionaries.topk_transcoder`)."""


@dataclass(frozen=True, eq=False)
class AdaptedDictionary:
    """A dictionary with further units besides its features; they come last.

    Attributes:
        module: the SAELens module; its own normalisation is switched off.
        normalisation: what happens to the input, here and without state.
        rescaled: features are given in activation units, for the decoder to undo the normalisation.
        linear: units that are linear in the input, one row each; None without any.
        w_dec: decoder rows of features and further units; the module's own are a view of it.
        bias: decoder bias.
    """

    module: Any
    normalisation: Normalisation
    rescaled: bool
    linear: Float[Tensor, "linear d_read"] | None
    w_dec: Float[Tensor, "unit d_write"]
    bias: Float[Tensor, " d_write"]

    @property
    def cfg(self) -> Any:
        """SAELens's configuration."""
        return self.module.cfg

    @property
    def W_dec(self) -> Tensor:  # noqa: N802 -- SAELens's name
        """Decoder rows, as a SAELens module has them."""
        return self.w_dec

    def parameters(self) -> Iterator[Tensor]:
        """Yield every tensor of weights once."""
        shared = {id(self.module.W_dec)}
        yield from (parameter for parameter in self.module.parameters() if id(parameter) not in shared)
        yield self.w_dec

    def encode(self, x: Float[Tensor, "*b d_read"]) -> Float[Tensor, "*b unit"]:
        """Return features, then further units."""
        import torch

        if self.normalisation == "none":
            units = [self.module.encode(x)]
            if self.linear is not None:
                units.append(x @ self.linear.T)
            return torch.cat(units, dim=-1)
        further: list[Tensor]
        if self.normalisation == "layer_norm":
            mean = x.mean(-1, keepdim=True)
            centred = x - mean
            std = centred.std(-1, keepdim=True)
            scale, normalised, further = std, centred / (std + _EPSILON), [std, mean]
        else:
            scale = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
            # SAELens divides by zero here; an input of zeros has the direction of none.
            normalised, further = x / scale.clamp_min(torch.finfo(x.dtype).tiny), [scale]
        features = self.module.encode(normalised)
        return torch.cat([features * scale, *further], dim=-1) if self.rescaled else features

    def decode(self, f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b d_write"]:
        """Return the reconstruction; affine in `f`."""
        return f @ self.w_dec + self.bias


def adapt(module: Any, *, gain: Tensor | None = None, centred: bool = False) -> Any:
    """Return a dictionary whose `encode` keeps no state and whose `decode` is affine in the coordinates alone.

    Args:
        module: a SAELens module, freshly loaded: it may be changed in place.
        gain: the dictionary was trained on the activation divided by this.
        centred: the dictionary was trained on the activation minus its mean over the last axis.

    Returns:
        The module itself where that is what it does anyway; an `AdaptedDictionary` otherwise.

    Raises:
        BasisError: the kind of dictionary, its normalisation, or the combination is not supported; says which.
    """
    import torch

    kind = module.cfg.architecture()
    check_kind(kind)
    normalisation = _normalisation(module)
    if module.cfg.reshape_activations == "hook_z":
        # SAELens wants heads apart; a site has them side by side, in the order in which SAELens would put them.
        module.turn_off_forward_pass_hook_z_reshaping()
        module.cfg.reshape_activations = "none"
    with torch.no_grad():
        if (gain is not None or centred) and (normalisation != "none" or kind == "matching_pursuit"):
            raise BasisError(f"a {kind} dictionary with normalisation '{normalisation}' cannot be folded")
        if gain is not None:
            _fold_gain(module, gain, skip="skip" in kind)
        if centred:
            _fold_centring(module)
        skip = "skip" in kind
        if normalisation == "none" and not (skip or centred):
            return module
        return _adapted(module, normalisation, skip=skip, centred=centred)


def check_kind(kind: str) -> None:
    """Refuse an architecture that cannot be a basis.

    Raises:
        BasisError: it reads other positions too, or is not known here.
    """
    if kind not in _KINDS:
        reason = "it reads other positions too" if kind == "temporal" else "it is unknown here"
        raise BasisError(f"architecture '{kind}' cannot be a basis: {reason}; known are {', '.join(_KINDS)}")


def _normalisation(module: Any) -> Normalisation:
    found = str(module.cfg.normalize_activations or "none")
    if found == "expected_average_only_in":
        raise BasisError(
            "its activations were scaled by a constant that its files do not give (expected_average_only_in); fold "
            "the constant into the weights with SAELens's fold_activation_norm_scaling_factor"
        )
    if found == "covariance_whitening":
        raise BasisError(
            "its activations were whitened (covariance_whitening) by a matrix that its files do not give; fold it "
            "into the weights with SAELens's fold_activation_whitening"
        )
    if found not in ("none", "layer_norm", "constant_norm_rescale"):
        raise BasisError(
            f"its normalisation '{found}' is unknown here; known are none, layer_norm, constant_norm_rescale"
        )
    return found  # type: ignore[return-value] # one of the three, as the check above says


def _adapted(module: Any, normalisation: Normalisation, *, skip: bool, centred: bool) -> AdaptedDictionary:
    import torch

    if getattr(module.cfg, "rescale_acts_by_decoder_norm", False):
        module.fold_W_dec_norm()  # so that the decoder is its matrix; features stay what they are
        module.cfg.rescale_acts_by_decoder_norm = False
    w_dec, bias = module.W_dec.detach(), module.b_dec.detach()
    if module.cfg.architecture() == "matching_pursuit" and not module.cfg.apply_b_dec_to_input:
        bias = torch.zeros_like(bias)  # SAELens adds it only where it is subtracted, too
    ones, linear = torch.ones_like(bias)[None], None
    # SAELens normalises what a transcoder reads and leaves what it writes alone.
    rescaled = normalisation != "none" and "transcoder" not in module.cfg.architecture()
    rows: list[Tensor] = []
    if rescaled:
        rows = [bias[None], ones] if normalisation == "layer_norm" else [bias[None]]
        bias = torch.zeros_like(bias)
    elif normalisation != "none" and skip:
        raise BasisError("a skip transcoder that normalises its input is not supported")
    elif skip:
        rows = [module.W_skip.detach().T]
        linear = torch.eye(module.W_enc.shape[0], dtype=w_dec.dtype, device=w_dec.device)
        module.W_skip = None
    elif centred:
        rows, linear = [ones], torch.full_like(ones, 1 / ones.shape[-1])
    together = torch.cat([w_dec, *rows])
    module.W_dec.data = together[: len(w_dec)]
    module.cfg.normalize_activations = "none"
    module.run_time_activation_norm_fn_in = module.run_time_activation_norm_fn_out = _unchanged
    return AdaptedDictionary(module, normalisation, rescaled, linear, together, bias)


def _unchanged(x: Tensor) -> Tensor:
    return x


def _fold_gain(module: Any, gain: Tensor, *, skip: bool) -> None:
    """Let a transcoder divide its input: (x / gain) @ W = x @ (W / gain)."""
    module.W_enc.data = _like(module.W_enc, _exact(module.W_enc) / _exact(gain)[:, None])
    if skip:
        module.W_skip.data = _like(module.W_skip, _exact(module.W_skip) / _exact(gain))


def _fold_centring(module: Any) -> None:
    """Let an SAE centre its input: (x - mean(x) - b) @ W + c = x @ (W - column means) + (c - b @ W)."""
    encoder = _exact(module.W_enc)
    shift = _exact(module.b_dec) * float(module.cfg.apply_b_dec_to_input)
    shifts = {"b_enc": shift @ encoder, "b_gate": shift @ encoder}
    if hasattr(module, "r_mag"):
        shifts["b_mag"] = (shift @ encoder) * _exact(module.r_mag).exp()
    for name, change in shifts.items():
        bias = getattr(module, name, None)
        if bias is not None:
            bias.data = _like(bias, _exact(bias) - change)
    module.cfg.apply_b_dec_to_input = False
    module.W_enc.data = _like(module.W_enc, encoder - encoder.mean(0))


def _exact(tensor: Tensor) -> Tensor:
    """Return a copy to compute with, so that what is folded is rounded once; not every device has float64."""
    return tensor.detach().cpu().double()


def _like(tensor: Tensor, value: Tensor) -> Tensor:
    return value.to(dtype=tensor.dtype, device=tensor.device)
