"""LoRA adapters: training a few weights beside frozen ones, W x + (alpha / r) B A x (Hu et al. 2021, arXiv:2106.09685).

The adapter is put into the model itself, by the package peft: the model keeps its class and its methods, and its
parameters with `requires_grad` are those of the adapter. A starts random and B at zero, so that the policy starts as
its base. Copies of such a model share the frozen weights; the copy without the adapter is the base.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .model_sources.adapter_folder import check_peft

__all__ = ["LoraSettings", "TrainedWeights", "add_lora", "frozen_copy", "has_adapter", "merged", "start_copy"]

_NAME = "default"  # of an adapter, as peft calls the only one


@dataclass(frozen=True)
class LoraSettings:
    """A LoRA adapter.

    Attributes:
        r: Rank of the update of each weight.
        alpha: The update is scaled by alpha / r; None is 2 r.
        targets: Names, or ends of names, of the linear layers that get one; None is all linear layers but the head.
    """

    r: int
    alpha: float | None = None
    targets: tuple[str, ...] | None = None


def add_lora(model: Any, settings: LoraSettings, seed: int = 0) -> None:
    """Put a new adapter into a model and freeze everything else.

    Args:
        model: A causal language model of transformers. It is changed in place.
        settings: The adapter.
        seed: Seed of its random half A.

    Raises:
        ValueError: peft is missing, no layer has one of the names, or one that has it is not a linear layer inside
            the model (its embedding and its head are left alone).
    """
    check_peft()
    from peft import LoraConfig
    from peft.tuners.lora import Linear
    from transformers.pytorch_utils import Conv1D

    alpha: Any = 2 * settings.r if settings.alpha is None else settings.alpha  # peft says int, and takes any number
    outer = [model.get_input_embeddings(), model.get_output_embeddings()]
    targets = _linear_layers(model, outer) if settings.targets is None else list(settings.targets)
    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2's linear layers
    config = LoraConfig(
        r=settings.r, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=transposed
    )
    dtype = model.dtype
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model.add_adapter(config, _NAME)
        except ValueError as error:
            raise ValueError(
                f"lora targets: expected names of linear layers of {type(model).__name__}, such as "
                f"{', '.join(_last_names(model, outer))}, got {', '.join(targets)}: {error}"
            ) from error
    layers = [module for module in model.modules() if _is_adapted(module)]
    strange = [type(layer.get_base_layer()).__name__ for layer in layers if not isinstance(layer, Linear)]
    if strange or any(layer.get_base_layer() in outer for layer in layers):
        raise ValueError(
            f"lora targets: expected linear layers inside {type(model).__name__}, such as "
            f"{', '.join(_last_names(model, outer))}, got {', '.join(targets)}, which has its embedding, its head or "
            f"layers of another kind{f' ({strange[0]})' if strange else ''}; leave them out"
        )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    model.eval()


def has_adapter(model: Any) -> bool:
    """Whether an adapter is in the model."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def frozen_copy(model: nn.Module) -> Any:
    """A copy in which nothing is trained; it shares the weights that are frozen in the model, too."""
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    return copy.deepcopy(model, memo=dict(shared)).requires_grad_(False)


def start_copy(model: Any) -> Any:
    """A frozen copy of the model that a policy starts from: that of an adapter's model is its base.

    With an adapter it needs memory for the adapter alone.
    """
    copied = frozen_copy(model)
    if has_adapter(copied):
        copied.disable_adapters()
        copied.requires_grad_(False)
    return copied


class TrainedWeights:
    """The state of a model that changes: all of it, or only the adapter where the rest is frozen."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.partial = len(self._names) < sum(1 for _ in model.parameters())

    def state_dict(self) -> dict[str, Any]:
        """The entries of the model's state that are trained; all where nothing is frozen."""
        return self.of(self._model.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` gave."""
        self.load_into(self._model, state)

    def of(self, state: dict[str, Any]) -> dict[str, Any]:
        """Those entries of the state of a copy of the model."""
        return {name: state[name] for name in self._names} if self.partial else state

    def load_into(self, copied: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Load them into a copy of the model. Raises RuntimeError where they are not all of them, as torch does."""
        if self.partial:
            state = copied.state_dict() | dict(state)
        copied.load_state_dict(state)


def merged(model: Any, folder: Path) -> Any:
    """The model with the adapter of a folder added into its weights: W + (alpha / r) B A.

    Args:
        model: The base. It is changed.
        folder: An adapter in peft's format.

    Raises:
        ValueError: peft is missing, the folder holds no adapter that can be merged, or it is one for another model.
    """
    check_peft()
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    try:
        adapted = PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False)
        stored, present = load_peft_weights(str(folder), device="cpu"), get_peft_model_state_dict(adapted)
    except Exception as error:  # peft passes on what torch, safetensors and huggingface_hub raise
        raise ValueError(_another_base(model, folder, str(error).strip().splitlines()[-1].strip())) from error
    if odd := sorted(set(stored) ^ set(present)):
        raise ValueError(_another_base(model, folder, f"the weights {', '.join(odd[:3])} have no counterpart"))
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise ValueError(
            f"expected an adapter that can be added into the weights of its model, such as LoRA, got one of the type "
            f"{adapted.active_peft_config.peft_type} in {folder}; choose another adapter"
        )
    return adapted.merge_and_unload().requires_grad_(True)  # peft had frozen it


def _another_base(model: Any, folder: Path, reason: str) -> str:
    return (
        f"cannot put the adapter in {folder} on {type(model).__name__}, its base by its own files: {reason}; an "
        "adapter fits only the model that it was trained on: name that one in its adapter_config.json"
    )


def _is_adapted(module: nn.Module) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


def _linear_layers(model: Any, outer: list[Any]) -> list[str]:
    """Names of the linear layers but the head; those of GPT-2 are transposed convolutions of width 1."""
    from transformers.pytorch_utils import Conv1D

    return [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D) and module not in outer
    ]


def _last_names(model: Any, outer: list[Any]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in _linear_layers(model, outer)})
