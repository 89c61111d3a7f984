"""Objectives as trainers: TRL's `GRPOTrainer` with the loss of any objective that has a weight for each token.

TRL generates, rewards, buffers, accumulates and logs as ever. Two things are the objective's:

    advantages   A = objective.advantages(rewards, …), over the whole generation batch and all processes
    gradient     of each token −w, w = −∂ℓ/∂log π_y with ℓ = objective.loss(log_probs, batch) on TRL's own log-probs

TRL takes advantages for each token where a subclass gives them. It gets w there and no old log-probs, so that its ratio
is exactly 1, nothing is clipped, and ∂(−w·exp(log π_y − sg(log π_y)))/∂log π_y = −w. What TRL adds to that stays as it
is: the divisor (`loss_type`), the KL (`beta`), the entropy bonus, `top_entropy_quantile`, the correction for vLLM. The
logged loss is −w so divided; `objective/loss` is the mean of ℓ over tokens.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from ...errors import UsageError
from ...objectives import Objective, ResponseBatch, TokenBatch, accuracy_of, kl_baseline_of
from ..objective_checks import binary_rewards, check_config, objective_of, reads_reference
from .dropped_rows import ragged_gather, repacked, tokens_of_steps
from .resuming import EpochSampler, WarnOfResampling

try:
    from trl import GRPOConfig, GRPOTrainer
except ModuleNotFoundError as error:
    raise UsageError(
        f"analysis.ObjectiveTrainer: expected TRL to be installed, got none ({error}); pip install 'rlvr-dynamics[trl]'"
    ) from error

__all__ = ["ObjectiveTrainer"]

_LOG_PROBS = "_get_per_token_logps_and_entropies"
_PREFIX = "objective_"  # of what the buffered batch carries for the objective, beside TRL's own entries


class ObjectiveTrainer(GRPOTrainer):  # type: ignore[misc]
    """A `GRPOTrainer` that trains on one of the objectives of docs/objectives.md, or on a loss that you wrote.

    Everything but the loss is TRL's, and so are all other arguments. The gradient of an optimiser step is that of
    −Σ_t w_t·log π_t with w held fixed, divided as `GRPOConfig.loss_type` says:

    ==========  =============================================================================================
    loss_type   divisor of the summed token losses
    ==========  =============================================================================================
    dapo        tokens of a step: the mean over the generation batch's steps (keep), those of the step (drop)
    bnpo        the tokens of each microbatch, then the mean over `gradient_accumulation_steps` microbatches
    grpo        the tokens of each response, then the mean over responses and microbatches
    dr_grpo     responses of the microbatch times `max_completion_length`, then the mean over microbatches
    luspo       responses of the microbatch, then the mean over microbatches
    ==========  =============================================================================================

    `rows="drop"` leaves rows with advantage 0 out before minibatches are cut, as the released code of PSR and NSR does:
    the kept rows fill the microbatches from the first, the divisor counts them alone, and an optimiser step that is
    left without rows on every process changes neither parameters nor the moments of the optimiser (the schedule of the
    learning rate goes on). With `loss_type="bnpo"` the last step that has rows is scaled by the fraction of
    microbatches that it fills, as there.

    Args:
        model: as for `GRPOTrainer`.
        reward_funcs: as for `GRPOTrainer`. A completion for which all of them return None has no weight.
        args: `GRPOConfig`; its settings of a loss (epsilon, delta, scale_rewards, …) must be unset, since the
            objective has its own.
        train_dataset: as for `GRPOTrainer`.
        objective: a name, a text such as "w-reinforce-ratio,lambda=0.1", or an `Objective`. An objective that reads a
            reference policy gets the one that TRL keeps for its KL, also where `beta` is 0.
        rows: "keep" or "drop" rows whose advantage is 0.
        threshold: a reward above it counts as 1, any other as 0; unset, rewards stay as they are.
        others: keyword arguments of `GRPOTrainer`; any other is a parameter of the objective (`form`, `lambda_`,
            `clip_low`, …).

    Attributes:
        objective: the objective with all parameters resolved.
        rows: "keep" or "drop".
        threshold: of real-valued rewards.
        token_clips: int8 (B, C) of the last microbatch: −1, 0 or +1 where the objective clips a token's ratio.

    Raises:
        UsageError: an unknown objective or parameter, one that needs what TRL's batch lacks (a teacher, pairs, greedy
            responses), settings that contradict each other; in training rewards other than 0 and 1 where the objective
            is defined for these alone.

    Example::

        trainer = analysis.ObjectiveTrainer(
            model, reward, args=config, train_dataset=prompts, objective="w-reinforce", form="ratio", lambda_=0.1
        )
        trainer.train()
    """

    _buffered_inputs: Any  # TRL's: the microbatches of a generation batch
    _tag_names = ["trl", "grpo", "rlvr-dynamics"]  # noqa: RUF012 - TRL's own attribute, a list there

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        train_dataset: Any = None,
        *,
        objective: str | Objective,
        rows: str = "keep",
        threshold: float | None = None,
        **others: Any,
    ) -> None:
        known = inspect.signature(GRPOTrainer.__init__).parameters
        parameters = {name: value for name, value in others.items() if name not in known}
        self.objective = objective_of(objective, parameters)
        self.rows, self.threshold = rows, threshold
        config = GRPOConfig() if args is None else args
        own_rollouts = others.get("rollout_func") is not None
        check_config(self.objective, rows, threshold, config, own_rollouts=own_rollouts)
        if others.get("eval_dataset") is not None:
            self.objective.check_group_size(config.num_generations_eval or config.num_generations)
        lacks_reference = reads_reference(self.objective) and config.beta == 0
        if lacks_reference:  # TRL loads a reference policy, and computes its log-probs, only where beta is not 0
            config = copy.copy(config)
            config.beta = 1.0
        given = {name: value for name, value in others.items() if name in known}
        self._empty_steps: frozenset[int] = frozenset()
        self._function_rewards: Tensor | None = None
        self.token_clips: Tensor | None = None
        super().__init__(model, reward_funcs, config, train_dataset, **given)
        if lacks_reference:
            self.beta = self.args.beta = 0.0
        self._passes_again = "mean_log_probs" in self.objective.reads() or "kl_baseline" in self.objective.needs()
        if self._is_vlm and (rows == "drop" or self._passes_again):
            which = "rows: drop" if rows == "drop" else f"objective: {self.objective.name}"
            raise UsageError(
                f"{which} reads rows of text alone, got {type(self.processing_class).__name__}, which makes images "
                "too; set rows to keep and choose an objective such as grpo"
            )
        self.add_callback(_SkipEmptySteps(self))
        self.add_callback(WarnOfResampling(self.num_iterations))

    # -- rewards and advantages ------------------------------------------------------------------------------------

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(*args, **kwargs)
        self._function_rewards = rewards
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        with self._reference_kept():
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
            self._weigh_responses(output)
        return output

    @contextlib.contextmanager
    def _reference_kept(self) -> Iterator[None]:
        """Let TRL compute the log-probs of its reference also where its own KL has no coefficient."""
        beta = self.beta
        if reads_reference(self.objective) and beta == 0:
            self.beta = 1.0
        try:
            yield
        finally:
            self.beta = beta

    def _weigh_responses(self, output: dict[str, Any]) -> None:
        """Put the objective's advantages, and what else it reads of responses, into a scored generation batch."""
        mode = "train" if self.model.training else "eval"
        group = self.num_generations if mode == "train" else self.num_generations_eval
        gather, objective = self.accelerator.gather, self.objective
        per_function = self._function_rewards
        assert per_function is not None
        unscored = per_function.isnan().all(1)
        weights = self.reward_weights.to(per_function.device)
        rewards = (per_function * weights).nansum(1)
        if unscored.any() and objective.compares():
            raise UsageError(
                f"rewards: {objective.name} compares the responses of a group or batch, got None of every reward "
                f"function for completion {int(unscored.nonzero()[0, 0])}; return a number for each completion, or "
                "choose an objective that weighs a response alone"
            )
        rewards = binary_rewards(objective, rewards, self.threshold)
        mask = _mask_of(output)
        judged = ResponseBatch(rewards, group, lengths=gather(mask.sum(1)))
        if "reward_components" in objective.reads():
            judged = replace(judged, reward_components=per_function, component_weights=weights)
        old = self._old_log_probs(output) if self._passes_again else None
        if "mean_log_probs" in objective.reads():
            assert old is not None
            means = old.masked_fill(~mask, 0).sum(1) / mask.sum(1).clamp(min=1)
            judged = replace(judged, mean_log_probs=gather(means))
        advantages = objective.advantages_of([judged])[0].masked_fill(unscored, 0)
        rows = len(mask)
        local = slice(self.accelerator.process_index * rows, (self.accelerator.process_index + 1) * rows)
        output["advantages"] = advantages[local]
        output[f"{_PREFIX}rewards"] = rewards[local]
        output[f"{_PREFIX}accuracy"] = accuracy_of(rewards, group)[local]
        if "kl_baseline" in objective.needs():
            assert old is not None
            gaps = gather((old - output["ref_per_token_logps"]).masked_fill(~mask, 0).sum(1))
            output[f"{_PREFIX}kl_baseline"] = kl_baseline_of(gaps[:, None], torch.zeros_like(gaps)[:, None])[local]
        self._metrics[mode]["objective/selected"].append(objective.selected(advantages).float().mean().item())
        shown = self._logs["advantages"]  # TRL has put its own there
        for _ in range(min(len(advantages), len(shown))):
            shown.pop()
        shown.extend(advantages.tolist())

    def _old_log_probs(self, output: dict[str, Any]) -> Tensor:
        """log π of the completions under the policy that sampled; a forward pass where TRL has made none."""
        if "old_per_token_logps" in output:
            old: Tensor = output["old_per_token_logps"]
            return old
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        attention = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        width, size = output["completion_ids"].shape[1], self.args.per_device_train_batch_size
        with torch.no_grad():
            log_probs: Tensor = self._get_per_token_logps_and_entropies(
                self.model, ids, attention, width, batch_size=size
            )[0]
        return log_probs

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return EpochSampler.of(super()._get_train_sampler(dataset), self)

    # -- rows ------------------------------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self.rows == "drop" and self.model.training and self._buffered_inputs is not before:
            self._drop_rows()
            inputs = self._buffered_inputs[self._step % self.args.steps_per_generation]
        return inputs

    def _drop_rows(self) -> None:
        selected = [self.objective.selected(part["advantages"]) for part in self._buffered_inputs]
        parts = repacked(self._buffered_inputs, torch.cat(selected))
        accumulation = self.args.gradient_accumulation_steps
        counts = self.accelerator.reduce(tokens_of_steps(parts, accumulation), reduction="sum")
        steps = len(counts)
        for index, part in enumerate(parts):
            part["num_items_in_batch"] = counts[index // accumulation] * steps  # TRL takes the mean over the steps
        self._empty_steps = frozenset(index for index, count in enumerate(counts.tolist()) if count == 0)
        self._buffered_inputs = parts

    # -- the loss --------------------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        inputs = dict(inputs)
        log_probs_of, stored = getattr(self, _LOG_PROBS), vars(self).get(_LOG_PROBS)

        def weighed(*args: Any, **kwargs: Any) -> Any:
            made = log_probs_of(*args, **kwargs)
            self._weigh_tokens(inputs, made[0], made[1])
            return made

        setattr(self, _LOG_PROBS, weighed)  # an instance attribute: whatever observes the log-probs stays beneath it
        try:
            with ragged_gather(self.accelerator) if self.rows == "drop" else contextlib.nullcontext():
                loss: Tensor = super()._compute_loss(model, inputs)
        finally:
            if stored is None:
                delattr(self, _LOG_PROBS)
            else:
                setattr(self, _LOG_PROBS, stored)
        self._log_clips()
        return loss

    def _weigh_tokens(self, inputs: dict[str, Any], log_probs: Tensor, entropies: Tensor | None) -> None:
        """Replace the advantages of a microbatch by w of each token, and take away what TRL would make a ratio of."""
        batch = self._token_batch(inputs, log_probs, entropies)
        if self.objective.entry.selects is not None:
            step = self.state.global_step
            batch = self.objective.prepare(batch, torch.Generator().manual_seed(self.args.seed + 1_000_003 * step))
        real = batch.real()
        with torch.enable_grad():
            leaf = batch.log_probs.clone().requires_grad_()
            losses = self.objective.loss(leaf, batch).masked_fill(~real, 0)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        inputs["advantages"] = -gradient
        inputs.pop("old_per_token_logps", None)
        clip = self.token_clips = self.objective.weights(batch).clip.masked_fill(~real, 0)
        sums = torch.stack([losses.detach().sum(), (clip < 0).sum(), (clip > 0).sum(), real.sum()])
        self._token_sums = self.accelerator.reduce(sums.float(), reduction="sum").tolist()

    def _token_batch(self, inputs: dict[str, Any], log_probs: Tensor, entropies: Tensor | None) -> TokenBatch:
        real = _mask_of(inputs)

        def of_tokens(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.detach().masked_fill(~real, 0).to(current.dtype)

        current = log_probs.detach().masked_fill(~real, 0)
        current = current if current.dtype == torch.float64 else current.float()
        old = of_tokens(inputs.get("old_per_token_logps"))
        old = current if old is None else old
        rollout = of_tokens(inputs.get("sampling_per_token_logps"))
        if rollout is not None:  # NaN where vLLM gave none: no correction there, as in TRL
            rollout = torch.where(rollout.isnan(), old, rollout)
        return TokenBatch(
            current,
            old,
            inputs["advantages"].to(current.dtype),
            real,
            inputs[f"{_PREFIX}rewards"].to(current.dtype),
            inputs[f"{_PREFIX}accuracy"].to(current.dtype),
            entropy=of_tokens(entropies),
            ref_log_probs=of_tokens(inputs.get("ref_per_token_logps")),
            kl_baseline=inputs.get(f"{_PREFIX}kl_baseline"),
            rollout_log_probs=rollout,
        )

    def _log_clips(self) -> None:
        """The objective's clips in place of those that TRL counts, which has been given a ratio of 1."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name in ("low_mean", "high_mean", "region_mean", "low_min", "high_max"):
            if metrics.get(f"clip_ratio/{name}"):
                metrics[f"clip_ratio/{name}"].pop()
                if not metrics[f"clip_ratio/{name}"]:
                    del metrics[f"clip_ratio/{name}"]
        loss, low, high, tokens = self._token_sums
        if tokens == 0:
            return
        metrics["objective/loss"].append(loss / tokens)
        metrics["clip_ratio/low_mean"].append(low / tokens)
        metrics["clip_ratio/high_mean"].append(high / tokens)
        metrics["clip_ratio/region_mean"].append((low + high) / tokens)


class _SkipEmptySteps(TrainerCallback):
    """Leaves parameters and moments alone in an optimiser step that dropping rows has emptied on every process."""

    def __init__(self, trainer: ObjectiveTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps, accumulation = args.steps_per_generation, args.gradient_accumulation_steps
        done = (self._trainer._step - 1) % steps
        if done // accumulation in self._trainer._empty_steps:
            kwargs["model"].zero_grad(set_to_none=True)  # an optimiser skips parameters without a gradient


def _mask_of(inputs: dict[str, Any]) -> Tensor:
    """Bool (B, T): the policy's own tokens."""
    mask: Tensor = inputs["completion_mask"].bool()
    tool = inputs.get("tool_mask")
    return mask if tool is None else mask & tool.bool()
