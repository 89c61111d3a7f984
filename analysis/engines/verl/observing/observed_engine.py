"""verl's FSDP engine, observed: what each update does to the tokens that it trains on.

verl's V1 trainer calls `train_batch` once for each minibatch. Within it the engine cuts the minibatch into micro
batches; of each, in this order,

    forward_step             the micro batch; verl's loss function is replaced by one that calls it and looks
    the model                with fused kernels: the hidden states that enter the head, and the head, where verl has
                             gathered it
    prepare_model_outputs    before verl scales the logits, or a kernel writes gradients over them: their statistics;
                             after it: hooks on the log-probs and entropies that the loss gets
    the loss function        ratio, clip, KL part; in the first update the same loss in float64
    optimizer_step           weights w = −∂L/∂log π_y of the update's loss

FSDP averages gradients over processes and fp16 scales the loss; both are undone. Forward passes without gradient (old
and reference log-probs) are not observed. Nothing here draws a random number or writes to a tensor of verl.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.distributed.tensor import DTensor
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

from toy_models.end_tokens import end_tokens

from ....errors import UsageError
from ....probes.output_heads import OutputHead, find_head, last_hidden_state
from ....probes.process_ranks import process_ranks
from ....probes.weight_probe import WeightProbe
from ...self_check import check_log_probs
from ..microbatch import in_progress
from .clipping import clips_of, normalizer_of, ratios_of
from .engine_checks import check_batch, check_critic, check_engine
from .facts import Marker
from .observation import ROW, Observation
from .parts import ObservedPart, Source, statistics_of
from .replay import kl_gradient, replayed_gradients

__all__ = ["VENDOR", "ObservedEngine"]

VENDOR = "dynamics"  # VERL_ENGINE_VENDOR, by which verl finds this engine
_OVERWRITTEN = "a kernel has overwritten the logits, or the temperature is not the one that verl used"
_observing: weakref.ref[ObservedEngine] | None = None


@EngineRegistry.register(model_type="value_model", backend=["fsdp", "fsdp2"], device=["cuda", "npu"], vendor=VENDOR)
class CriticEngine(FSDPEngineWithValueHead):  # type: ignore[misc, unused-ignore]
    """verl's engine of a critic, which is not observed; it refuses a configuration that asks for records."""

    def __init__(self, model_config: Any, engine_config: Any, *args: Any, **kwargs: Any) -> None:
        check_critic(engine_config)
        super().__init__(model_config, engine_config, *args, **kwargs)


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device=["cuda", "npu"], vendor=VENDOR)
class ObservedEngine(FSDPEngineWithLMHead):
    """An engine of verl whose updates are recorded.

    Set `VERL_ENGINE_VENDOR=dynamics` in the environment of the workers, and `actor_rollout_ref.actor.fsdp_config` to an
    `ObservedEngineConfig`. The reference model (`forward_only`) has an engine of this class too, which records nothing.

    Raises:
        UsageError: a setting with which nothing can be recorded, another configuration, or a second engine that is
            observed in the same process.
    """

    def __init__(self, model_config: Any, engine_config: Any, optimizer_config: Any, checkpoint_config: Any) -> None:
        global _observing
        self._observed = not engine_config.forward_only
        if self._observed:
            other = None if _observing is None else _observing()
            check_engine(model_config, engine_config, other_observer=other is not None and other.observing)
        super().__init__(model_config, engine_config, optimizer_config, checkpoint_config)
        self._observation: Observation | None = None
        self._part: ObservedPart | None = None
        self._fused_head: OutputHead | None = None
        if self._observed:
            _observing = weakref.ref(self)

    @property
    def observing(self) -> bool:
        """Whether updates of this engine are recorded."""
        return self._observation is None or self._observation.recording

    @property
    def _watching(self) -> bool:
        """Whether the update under way is recorded."""
        watch = self._observation
        return watch is not None and watch.recording and not watch.failed

    def initialize(self) -> None:
        """Build model and optimiser, and what observes them."""
        super().initialize()
        if not self._observed or self._observation is not None:
            return
        config = self.model_config
        model = SimpleNamespace(generation_config=config.generation_config, config=config.hf_config)
        self._observation = Observation(
            self.engine_config.settings(),
            self,
            process_ranks(),
            frozenset(end_tokens(config.tokenizer, model)),
            total_steps=max(int(self.optimizer_config.total_training_steps or 0), 0),
        )
        if self.engine_config.use_fused_kernels:
            self._fused_head = find_head(self.module)
            self._fused_head.backbone.register_forward_hook(self._see_hidden)

    # -- the run folder --------------------------------------------------------------------------------------------

    def get_per_tensor_param(self, *args: Any, **kwargs: Any) -> Any:
        """As verl's; before the first rollouts it is what opens the run folder, unless a checkpoint did."""
        if self._observation is not None and self._observation.recording:
            self._observation.open()
        return super().get_per_tensor_param(*args, **kwargs)

    def save_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        """As verl's; what was recorded is committed, and the checkpoint says how far it went."""
        super().save_checkpoint(local_path, *args, **kwargs)
        if self._observation is not None:
            self._observation.checkpoint(Path(local_path))

    def load_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        """As verl's; records are resumed after the updates that the checkpoint has, later ones are dropped."""
        marker = None if self._observation is None else Marker.read(Path(local_path))
        super().load_checkpoint(local_path, *args, **kwargs)
        if self._observation is not None:
            self._observation.open(marker)

    def finish_records(self, status: str = "complete") -> None:
        """End the records; training may go on without."""
        if self._observation is not None:
            self._observation.finish(status)

    # -- one update ------------------------------------------------------------------------------------------------

    def train_batch(self, data: TensorDict, loss_function: Callable[..., Any]) -> Any:
        """One update on a minibatch, as verl's; its records, and numbers for verl's logs with the last of a batch."""
        watch = self._observation
        if watch is None or not watch.recording:
            return super().train_batch(data, loss_function)
        with watch.guard():
            check_batch(data, loss_function)
        watch.begin_update(data)
        outputs = super().train_batch(data, loss_function)
        data.pop(ROW, None)
        lr = float(self.optimizer.param_groups[0]["lr"])
        watch.after_step(
            lr=lr, grad_norm=float(outputs["metrics"]["grad_norm"]), clip_grad=float(self.optimizer_config.clip_grad)
        )
        # verl says so with the last minibatch of the last pass over a batch; other callers have single minibatches
        if tu.get_non_tensor_data(data, "update_lr_scheduler", True):
            outputs["metrics"] |= {name: [value] for name, value in watch.end_batch().items()}
        return outputs

    def optimizer_step(self) -> Any:
        """verl's optimiser step; before it, what its gradients are made of is filed."""
        if self._observation is not None and self._observation.recording:
            self._observation.before_step()
        return super().optimizer_step()

    def forward_step(self, micro_batch: TensorDict, loss_function: Callable[..., Any], forward_only: bool) -> Any:
        """As verl's; the loss function is called by one that looks at what it is given."""
        if forward_only or self._observation is None or loss_function is None:
            return super().forward_step(micro_batch, loss_function, forward_only)
        micro_batch = micro_batch.to(get_device_id())  # as verl does next
        self._part = self._observation.begin_part(micro_batch) if self._watching else None
        try:
            return super().forward_step(micro_batch, partial(self._loss, loss_function), forward_only)
        finally:
            self._part = None

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> Any:
        """As verl's; raw logits are read before, gradients of what it returns are caught."""
        part, watch = self._part, self._observation
        if part is None or watch is None or not torch.is_grad_enabled():
            return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        if self._fused_head is None:
            with watch.guard():
                self._see_logits(part, watch, output.logits)
        model_output = super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        with watch.guard():
            self._see_outputs(part, model_output)
        return model_output

    # -- what is seen ----------------------------------------------------------------------------------------------

    def _see_logits(self, part: ObservedPart, watch: Observation, logits: Tensor) -> None:
        if isinstance(logits, DTensor):
            raise UsageError(
                "engine: expected whole logits on each rank, got logits that are cut along the vocabulary (tensor "
                "parallelism); set the tensor-parallel size of the actor to 1"
            )
        spec = watch.settings.spec
        part.stats = statistics_of(
            part,
            Source(logits=logits.flatten(0, 1)),
            padded=not self.use_remove_padding,
            top_k=min(spec.top_k, logits.shape[-1]),
            rank=spec.rank,
        )

    def _see_hidden(self, module: Any, inputs: Any, output: Any) -> None:
        """Fused kernels make no logits: statistics from what enters the head. Every rank gathers the head."""
        part, watch, head = self._part, self._observation, self._fused_head
        if watch is None or not watch.recording or head is None or not torch.is_grad_enabled():
            return
        weight, bias = head.weight(), head.bias()
        if part is None:
            return
        with watch.guard():
            hidden = last_hidden_state(output).detach()
            spec = watch.settings.spec
            part.stats = statistics_of(
                part,
                Source(
                    hidden=hidden.flatten(0, 1),
                    head=weight.to(hidden),  # as FSDP's mixed precision gives it to the kernel
                    bias=None if bias is None else bias.to(hidden),
                    softcap=head.softcap,
                    logit_scale=head.logit_scale,
                ),
                padded=not self.use_remove_padding,
                top_k=min(spec.top_k, head.vocabulary),
                rank=spec.rank,
            )

    def _see_outputs(self, part: ObservedPart, output: dict[str, Tensor]) -> None:
        assert part.stats is not None
        log_probs, entropy = output["log_probs"], output.get("entropy")
        part.log_probs = part.places.of_sequences(log_probs.detach())
        part.weight_probe = WeightProbe(log_probs)
        recorded = part.log_probs.flatten()[part.keep]
        check_log_probs(recorded, part.stats.log_prob, type(self.module).__name__, _OVERWRITTEN)
        if entropy is not None:
            part.entropies, part.entropy_mask = part.places.of_sequences(entropy.detach()), part.mask
            part.entropy_probe = WeightProbe(entropy) if entropy.requires_grad else None
        else:  # verl computed none: those of the recorded tokens
            flat = torch.zeros(part.mask.numel(), device=part.mask.device)
            flat[part.keep] = part.stats.entropy.float()
            known = torch.zeros_like(part.mask).flatten()
            known[part.keep] = True
            part.entropies, part.entropy_mask = flat.view(part.mask.shape), known.view(part.mask.shape)

    def _loss(
        self, loss_function: Callable[..., Any], model_output: dict[str, Tensor], data: TensorDict, dp_group: Any
    ) -> Any:
        """verl's loss of a micro batch, and what it says of its tokens."""
        part, watch = self._part, self._observation
        if part is not None and watch is not None and watch.needs_replay:
            with watch.guard():
                part.replayed, part.replayed_entropy = replayed_gradients(
                    loss_function, model_output, data, dp_group, part.places
                )
        with in_progress(data) as seen:
            loss, metrics = loss_function(model_output=model_output, data=data, dp_group=dp_group)
        if part is not None and watch is not None:
            with watch.guard():
                self._file_loss(part, watch, loss_function, data, loss.detach(), seen.clips)
        return loss, metrics

    def _file_loss(
        self,
        part: ObservedPart,
        watch: Observation,
        loss_function: Callable[..., Any],
        data: TensorDict,
        loss: Tensor,
        clips: Tensor | None,
    ) -> None:
        config = getattr(loss_function, "keywords", {}).get("config")
        assert part.log_probs is not None
        scaler = getattr(self, "scaler", None)
        part.loss, part.world = float(loss), self.get_data_parallel_size()
        part.scale = part.world * (1.0 if scaler is None else float(scaler.get_scale()))
        old = part.log_probs if part.old_log_probs is None else part.old_log_probs
        part.ratio = ratios_of(config, part.log_probs, old, part.mask)
        part.clip = clips_of(config, clips, part.ratio, part.advantages)
        part.normalizer = normalizer_of(config, clips, data)
        if config is not None and config.use_kl_loss:
            assert part.ref_log_probs is not None
            part.kl_gradient = kl_gradient(config, part.log_probs, part.ref_log_probs, part.mask, data)
        watch.describe(config, part)
