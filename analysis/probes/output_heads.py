"""The output head of a Hugging Face causal LM: how its logits follow from the backbone's last hidden state.

    logits = cap(logit_scale · (hidden @ weightᵀ + bias)),   cap(z) = softcap · tanh(z / softcap), or z without a cap

`find_head` reads the parts from the model and its configuration; it runs nothing. This is the only module that knows
how transformers, peft, DDP, FSDP and DeepSpeed keep an output head. It refuses what it does not know: several layers
between backbone and logits, a factor of the logits under an unknown name, packed weights. `verify` compares the
description with logits that the model itself gave.

Source of the factors: the forward passes of the causal LMs in transformers 5.23 (277 files of models were searched).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from ..common.short_repr import short_repr
from ..errors import UsageError

__all__ = ["OutputHead", "find_head", "last_hidden_state", "unwrap"]

# Configuration fields that cap the logits: Gemma 2 and later, Recurrent Gemma, xLSTM.
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
# Those that multiply them: Cohere, models by TRL's reading of `output_multiplier`, Falcon-H1.
_MULTIPLIERS = ("logit_scale", "output_multiplier", "lm_head_multiplier")
# Those that divide them or the hidden states, which is the same without a bias: Granite and MiniCPM3, Inkling.
_DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")
_DIVISOR_THAT_MULTIPLIES = {"hyperclovax": "logits_scaling"}
# Any other field of these words may change the logits, unless it speaks of attention, of routers or of what is kept.
_SUSPECT = re.compile(r"logit|lm_head|output_mult")
_HARMLESS = re.compile(r"attn|attention|router|to_keep|lm_head_bias|chunk_size")

_SUPPORTED = (
    "supported is a decoder-only causal LM of transformers whose logits are one linear layer on the backbone's last "
    "hidden state, with a bias, a soft cap and a constant factor as the configuration names them, and plain LoRA"
)


class HeadArguments(TypedDict):
    """A head as keyword arguments of `token_statistics(hidden=…)`."""

    head: Tensor  # (V, D)
    bias: Tensor | None  # (V,)
    softcap: float | None
    logit_scale: float


@short_repr
@dataclass(frozen=True)
class OutputHead:
    """The output head of one model, as `find_head` found it.

    `weight()` and `bias()` read the parameters at each call, since training changes them. `model` is the causal LM
    without its wrappers, so that nothing needs to unwrap it again.
    """

    model: nn.Module  # the causal LM inside DDP, FSDP, torch.compile and peft
    module: nn.Module  # its linear layer (V, D)
    backbone: nn.Module  # whose last hidden state enters it
    vocabulary: int  # V, the number of logits
    hidden_size: int  # D
    softcap: float | None
    logit_scale: float
    tied: bool  # whether the layer shares its weight with the input embedding
    description: str  # for people

    @torch.no_grad()
    def weight(self) -> Tensor:
        """The effective weight, without a graph.

        Returns:
            (V, D), with active LoRA adapters added and shards gathered; of a plain head its own storage, not a copy.
            Under FSDP2 gathering is a collective: every rank must call it.

        Raises:
            UsageError: the weight is not available (ZeRO-3 shards) or random (dropout before an adapter in training
                mode).
        """
        layer = _layer_of(self.module)
        weight = _whole(layer.weight, "weight")
        for delta, _ in _adapters(self.module):
            weight = weight + _whole(delta, "adapter").to(weight.dtype)
        return weight[: self.vocabulary]

    @torch.no_grad()
    def bias(self) -> Tensor | None:
        """The effective bias (V,); None where the head has none."""
        layer = _layer_of(self.module)
        bias = getattr(layer, "bias", None)
        bias = None if bias is None else _whole(bias, "bias")
        for _, offset in _adapters(self.module):
            if offset is not None:
                bias = offset if bias is None else bias + offset
        return None if bias is None else bias[: self.vocabulary]

    def arguments(self) -> HeadArguments:
        """The head as keyword arguments of `token_statistics(hidden=…)`: head, bias, softcap, logit_scale."""
        return {
            "head": self.weight(),
            "bias": self.bias(),
            "softcap": self.softcap,
            "logit_scale": self.logit_scale,
        }

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (…, V) of hidden states (…, D) by the formula of this module, as one dense product.

        Args:
            hidden: (…, D), the last hidden states of a few tokens.
        """
        z = hidden.to(self.weight().dtype) @ self.weight().T
        bias = self.bias()
        z = self.logit_scale * (z if bias is None else z + bias)
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)

    def differentiable(self, hidden: Tensor) -> Tensor:
        """Logits (…, V) of hidden states (…, D) by the model's own layer, adapters included, with gradients.

        Args:
            hidden: (…, D), the last hidden states of a few tokens.
        """
        z: Tensor = self.module(hidden)[..., : self.vocabulary]
        z = z if self.logit_scale == 1 else z * self.logit_scale
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)

    def verify(self, hidden: Tensor, logits: Tensor) -> None:
        """Compare the description with the model itself.

        Args:
            hidden: (n, D), as the backbone gave them.
            logits: (n, V), as the model gave them for the same tokens.

        Raises:
            UsageError: they differ by more than the rounding of their dtype.
        """
        ours = self.logits(hidden).double()
        theirs = logits.detach().double()
        if ours.shape != theirs.shape:
            raise UsageError(
                f"model: expected logits of shape {tuple(ours.shape)}, as {self.description} gives them, "
                f"the model gave {tuple(theirs.shape)}"
            )
        # products of D terms round by about eps·√D of their size; 64 leaves room for caps, casts and sums in blocks
        eps = max(torch.finfo(t.dtype).eps for t in (hidden, logits, self.weight()))
        slack = 64 * eps * (1 + theirs.abs().amax().item())
        worst = (ours - theirs).abs().amax().item()
        if not worst <= slack:
            raise UsageError(
                f"model: expected the logits of {self.description}, got some that differ by up to {worst:.3g}; "
                f"{_SUPPORTED}"
            )


def find_head(model: nn.Module) -> OutputHead:
    """The output head of a causal LM of transformers.

    Args:
        model: the causal LM, bare or inside DDP, FSDP, torch.compile or peft.

    Returns:
        The head, with what multiplies or caps its logits. Nothing is run; `OutputHead.verify` checks the description.

    Raises:
        UsageError: anything else; the message says what it has and what is supported.

    Example:
        >>> from transformers import AutoModelForCausalLM, Qwen2Config
        >>> config = Qwen2Config(vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        ...                      num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True)
        >>> head = find_head(AutoModelForCausalLM.from_config(config))
        >>> head.description
        'Qwen2ForCausalLM.lm_head, Linear 8 → 11, tied'
        >>> head.weight().shape
        torch.Size([11, 8])
    """
    inner: Any = unwrap(model)
    what = type(inner).__name__
    config = _text_config(inner, what)
    module = inner.get_output_embeddings()
    if module is None or not inner.can_generate() or getattr(config, "is_encoder_decoder", False):
        raise UsageError(f"model: expected a causal language model with an output head, got {what}; {_SUPPORTED}")
    name = _child_name(inner, module, what)
    base = inner.base_model
    between = [
        child
        for child, part in inner.named_children()
        if part is not module and part is not base and any(True for _ in part.parameters())
    ]
    if base is inner or between:
        other = f"{', '.join(between)} besides" if between else "no backbone"
        raise UsageError(f"model: expected a backbone and an output head, got {what} with {other}; {_SUPPORTED}")
    decoder = inner.get_decoder()  # OPT and the decoders of Bart's kin are called past their base model
    backbone = decoder if any(part is decoder for part in base.modules()) else base
    layer = _layer_of(module)
    rows, columns = _shape(layer, f"{what}.{name}")
    vocabulary = min(rows, getattr(config, "unpadded_vocab_size", None) or rows)
    softcap, scale = _cap_and_scale(config, what)
    embedding = inner.get_input_embeddings()
    tied = embedding is not None and getattr(embedding, "weight", None) is layer.weight
    parts = [f"{what}.{name}", f"{type(module).__name__} {columns} → {vocabulary}", "tied" if tied else "not tied"]
    parts += ["with bias"] if getattr(layer, "bias", None) is not None else []
    parts += [f"times {scale:g}"] if scale != 1 else []
    parts += [f"capped at {softcap:g}"] if softcap is not None else []
    return OutputHead(inner, module, backbone, vocabulary, columns, softcap, scale, tied, ", ".join(parts))


def unwrap(model: nn.Module) -> nn.Module:
    """The transformers model inside DDP, FSDP, torch.compile and peft; UsageError where there is none."""
    from transformers import PreTrainedModel

    inner: Any = model
    for _ in range(8):  # no stack of wrappers is deeper
        if isinstance(inner, PreTrainedModel):
            return inner
        if isinstance(inner, nn.DataParallel) and len(inner.device_ids) > 1:
            raise UsageError(
                f"model: expected one process for each device, got DataParallel on {len(inner.device_ids)} devices, "
                "which calls copies of the model; use DistributedDataParallel"
            )
        if hasattr(inner, "get_base_model"):
            inner = inner.get_base_model()
        elif isinstance(getattr(inner, "_orig_mod", None), nn.Module):
            inner = inner._orig_mod
        elif isinstance(getattr(inner, "module", None), nn.Module):
            inner = inner.module
        else:
            break
    raise UsageError(f"model: expected a causal LM of transformers, got {type(model).__name__}; {_SUPPORTED}")


def last_hidden_state(output: Any) -> Tensor:
    """The hidden states (B, T, D) that enter the head, from what a backbone's forward pass returned.

    Args:
        output: a tensor, a mapping with last_hidden_state, or a tuple that starts with the hidden states.

    Raises:
        UsageError: it holds no hidden states.
    """
    if isinstance(output, Tensor):
        return output
    hidden = output.get("last_hidden_state") if isinstance(output, Mapping) else output[0]
    if not isinstance(hidden, Tensor):
        raise UsageError(
            f"model: expected a last hidden state of its backbone, got {type(output).__name__}; {_SUPPORTED}"
        )
    return hidden


def _text_config(model: Any, what: str) -> Any:
    try:
        return model.config.get_text_config(decoder=True)
    except ValueError as error:
        raise UsageError(f"model: expected a single text decoder, got {what} ({error}); {_SUPPORTED}") from error


def _child_name(model: nn.Module, module: nn.Module, what: str) -> str:
    for name, child in model.named_children():
        if child is module:
            return name
    raise UsageError(f"model: expected one layer between backbone and logits, got several in {what}; {_SUPPORTED}")


def _cap_and_scale(config: Any, what: str) -> tuple[float | None, float]:
    softcap = next((float(cap) for cap in (getattr(config, name, None) for name in _CAPS) if cap), None)
    scale = 1.0
    for name in (*_MULTIPLIERS, *_DIVISORS):
        value = getattr(config, name, None)  # a property in some configurations, so no field of `to_dict`
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not value:
            raise UsageError(f"model: expected a number other than 0 for {name} of {what}, got {value!r}")
        multiplies = name in _MULTIPLIERS or _DIVISOR_THAT_MULTIPLIES.get(config.model_type) == name
        scale = scale * value if multiplies else scale / value
    known = {*_CAPS, *_MULTIPLIERS, *_DIVISORS}
    odd = {
        name: value
        for name, value in config.to_dict().items()
        if _SUSPECT.search(name) and not _HARMLESS.search(name) and name not in known and value not in (None, 0, 1)
    }
    if odd:
        listed = ", ".join(f"{name} = {value}" for name, value in odd.items())
        raise UsageError(
            f"model: expected known factors of the logits, got {what} configured with {listed}, which may change "
            f"them in an unknown way; {_SUPPORTED}"
        )
    return softcap, scale


def _shape(layer: Any, where: str) -> tuple[int, int]:
    weight = layer.weight
    rows, columns = getattr(layer, "out_features", None), getattr(layer, "in_features", None)
    shape = (rows, columns) if rows and columns else tuple(weight.shape)  # shards have shapes of their own
    whole = not weight.numel() or tuple(weight.shape) == shape
    if len(shape) != 2 or not weight.is_floating_point() or not whole:
        raise UsageError(
            f"model: expected a weight of floats (V, D) in {where}, got {tuple(weight.shape)} of {weight.dtype}, "
            f"packed or quantised; {_SUPPORTED}"
        )
    return int(shape[0]), int(shape[1])


def _layer_of(module: nn.Module) -> Any:
    """The layer whose `weight` counts, inside what peft puts around it."""
    inner: Any = module
    if hasattr(inner, "token_adapter"):
        raise UsageError(f"model: expected a head trained as a whole, got trainable_token_indices; {_SUPPORTED}")
    if hasattr(inner, "modules_to_save"):
        active = [name for name in inner.active_adapters if name in inner.modules_to_save]
        inner = inner.modules_to_save[active[0]] if active and not inner.disable_adapters else inner.original_module
    while hasattr(inner, "base_layer"):
        inner = inner.base_layer
    if not isinstance(getattr(inner, "weight", None), Tensor):
        raise UsageError(f"model: expected a head with a weight, got a {type(inner).__name__}; {_SUPPORTED}")
    return inner


def _adapters(module: nn.Module) -> list[tuple[Tensor, Tensor | None]]:
    """What active, unmerged LoRA adapters add to weight and bias; UsageError for adapters of any other kind."""
    inner: Any = module
    if not hasattr(inner, "base_layer") or inner.disable_adapters or inner.merged:
        return []
    kind = type(inner).__name__
    if not (hasattr(inner, "lora_A") and hasattr(inner, "get_delta_weight")) or hasattr(inner.base_layer, "base_layer"):
        raise UsageError(f"model: expected plain LoRA on its head, got an adapter of the kind {kind}; {_SUPPORTED}")
    out = []
    for name in (name for name in inner.active_adapters if name in inner.lora_A):
        if name in getattr(inner, "lora_variant", {}):
            raise UsageError(
                f"model: expected plain LoRA on its head, got a variant of LoRA in the adapter {name!r}; {_SUPPORTED}"
            )
        dropout = inner.lora_dropout[name]
        if inner.training and getattr(dropout, "p", 0):
            raise UsageError(
                f"model: expected a head without dropout, got the adapter {name!r} that drops out at random "
                f"(p = {dropout.p:g}), so that there is no single distribution; set lora_dropout=0 or call model.eval()"
            )
        offset = getattr(inner.lora_B[name], "bias", None)
        out.append((inner.get_delta_weight(name), None if offset is None else offset * inner.scaling[name]))
    return out


def _whole(tensor: Tensor, what: str) -> Tensor:
    if hasattr(tensor, "full_tensor"):  # a DTensor, as FSDP2 shards parameters
        tensor = tensor.full_tensor()
    if not tensor.numel():
        raise UsageError(
            f"model: expected the {what} of its head on this rank, got an empty one, as DeepSpeed ZeRO-3 leaves it; "
            "gather it around the call (with deepspeed.zero.GatheredParameters([head.weight]):), or use ZeRO-2 or FSDP2"
        )
    return tensor.detach()
