"""Hooks on a TRL trainer: instance attributes that call what they replace, and a callback; all restored at the end.

    _calculate_rewards                   values of every reward function, in generation order; ids before masking
    _generate_and_score_completions      one generation batch; its rows get a number that TRL's shuffle carries along
    _prepare_inputs                      what was left in the buffered microbatches
    _compute_loss                        one microbatch, and the factor of its loss in the update's
    _get_per_token_logps_and_entropies   log-probs and entropies; hooks on their gradients; hidden states beneath them
    _get_grad_norm                       the norm of the gradient before it is clipped
    train                                its end, whatever it was

The trainer calls `on_pre_optimizer_step`, steps, counts `global_step` up, calls `on_step_end`, and then logs. Nothing
here draws a random number or writes to a tensor of the trainer.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback

from toy_models.tasks.task import prompt_hash

from ...errors import UsageError
from ...probes.output_heads import OutputHead, last_hidden_state
from ...probes.record_spec import RecordSpec
from ...probes.weight_probe import WeightProbe
from ...token_stats import token_statistics
from ..self_check import check_log_probs
from .batches import Generation, Microbatch, check_rewards, normalizer_of, policy_mask, ratio_and_clip
from .observer import Observer
from .replay import HIGH_ENTROPY, replay

__all__ = ["ROW", "TrlHooks"]

ROW = "watch_row"  # key of a microbatch: the number of each rollout in its generation batch
_ABSENT = object()
_BLIND_HEAD = "the trainer's fused head does not see all of the head (TRL's leaves out LoRA adapters on it)"


class TrlHooks:
    """Watches one trainer from `install` to `restore`."""

    def __init__(
        self,
        trainer: Any,
        head: OutputHead,
        spec: RecordSpec,
        decode: Callable[[list[int]], str],
        end_ids: frozenset[int],
        correct: Callable[[np.ndarray, np.ndarray], np.ndarray] | None,
        observer: Observer,
    ) -> None:
        self.trainer, self.head, self._spec, self.observer = trainer, head, spec, observer
        self._decode, self._end_ids, self._correct = decode, end_ids, correct
        self._undo: list[tuple[str, Any, Any]] = []
        self._callback = _Callback(self)
        self._scored: tuple[np.ndarray, list[list[int]] | None] | None = None
        self._fresh: Generation | None = None  # not yet cut into microbatches
        self._generation: Generation | None = None
        self._part: Microbatch | None = None  # whose loss is being computed
        self._parts: list[Microbatch] = []  # of the update under way
        self._entropy_masks: list[Tensor] = []
        self._grad_norm: float | None = None
        self._skipped = False

    # -- installing ------------------------------------------------------------------------------------------------

    @property
    def installed(self) -> bool:
        return bool(self._undo)

    def install(self) -> None:
        """Put the hooks in place."""
        for name, method in (
            ("train", self._train),
            ("_calculate_rewards", self._calculate_rewards),
            ("_generate_and_score_completions", self._generate),
            ("_prepare_inputs", self._prepare_inputs),
            ("_compute_loss", self._compute_loss),
            ("_get_per_token_logps_and_entropies", self._log_probs),
            (HIGH_ENTROPY, self._high_entropy),
            ("_get_grad_norm", self._get_grad_norm),
        ):
            if hasattr(self.trainer, name):
                self._wrap(name, method)
        self.trainer.add_callback(self._callback)

    def _wrap(self, name: str, method: Callable[..., Any]) -> None:
        original = getattr(self.trainer, name)

        @functools.wraps(original)
        def hooked(*args: Any, **kwargs: Any) -> Any:
            if not self.installed:  # someone else wrapped this hook, so that it could not be taken away
                return original(*args, **kwargs)
            return method(original, *args, **kwargs)

        self._undo.append((name, vars(self.trainer).get(name, _ABSENT), hooked))
        setattr(self.trainer, name, hooked)

    def restore(self) -> None:
        """Leave the trainer as it was found."""
        for name, before, hooked in reversed(self._undo):
            if vars(self.trainer).get(name) is not hooked:
                continue
            if before is _ABSENT:
                delattr(self.trainer, name)
            else:
                setattr(self.trainer, name, before)
        self._undo = []
        self.trainer.remove_callback(self._callback)
        self._forget()

    def _forget(self) -> None:
        for part in self._parts:
            part.release()
        self._parts, self._part, self._entropy_masks = [], None, []

    @property
    def _watching(self) -> bool:
        return bool(self.trainer.model.training) and not self.observer.failed

    def _train(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            output = original(*args, **kwargs)
        except BaseException:
            self._end("interrupted")
            raise
        self._end("complete")
        return output

    def _end(self, status: str) -> None:
        if self.installed:
            self.restore()
            self.observer.ended(status)

    # -- rollouts --------------------------------------------------------------------------------------------------

    def _calculate_rewards(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        values: Tensor = original(*args, **kwargs)
        if self._watching:
            ids = args[3] if len(args) > 3 else kwargs.get("completion_ids_list")
            responses = None if ids is None else [[int(token) for token in row] for row in ids]
            self._scored = values.detach().double().cpu().numpy(), responses
        return values

    def _generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        output: dict[str, Any] = original(*args, **kwargs)
        if not self.trainer.model.training:
            return output
        rows = len(output["completion_ids"])
        own: list[Any] = [None] * rows
        with self.observer.guard():
            if not self.observer.failed:
                self._fresh = self._described(output)
                signs = self._fresh.signs.tolist()
                prompts = [prompt_hash(ids) for ids in self._fresh.prompts]
                own = list(zip(prompts, signs, self._fresh.lengths, strict=True))
        everyone = gather_object(own)  # every process takes part, also one whose recording failed
        with self.observer.guard():
            if self._fresh is not None and not self.observer.failed:
                self._complete(self._fresh, everyone)
        first = self.trainer.accelerator.process_index * rows
        output[ROW] = torch.arange(first, first + rows, device=output["completion_ids"].device)
        return output

    def _described(self, output: dict[str, Any]) -> Generation:
        """This process's rollouts; what needs those of the others is filled in by `_complete`."""
        trainer = self.trainer
        assert self._scored is not None
        values, responses = self._scored
        self._scored = None
        check_rewards(values, trainer.reward_func_names)
        weights = trainer.reward_weights.detach().double().cpu().numpy()
        rewards = np.where(np.isnan(values).all(1), np.nan, np.nansum(values * weights, axis=1))
        mask, tool = output["completion_mask"].bool(), output.get("tool_mask")
        if responses is None:
            rows = zip(output["completion_ids"].tolist(), mask.tolist(), strict=True)
            responses = [[token for token, real in zip(ids, row, strict=True) if real] for ids, row in rows]
        sampled = policy_mask(output).sum(1).tolist()
        lengths = [n if tool is not None and n else len(ids) for n, ids in zip(sampled, responses, strict=True)]
        rows = zip(output["prompt_ids"].tolist(), output["prompt_mask"].tolist(), strict=True)
        prompts = [[token for token, real in zip(ids, row, strict=True) if real] for ids, row in rows]
        advantages = output["advantages"].detach().double().cpu().numpy()
        largest = advantages if advantages.ndim == 1 else _furthest_from_zero(advantages)
        return Generation(
            step=self.observer.next_step,
            first=trainer.accelerator.process_index * len(responses),
            prompts=prompts,
            responses=responses,
            lengths=lengths,
            texts=[(self._decode(p), self._decode(r)) for p, r in zip(prompts, responses, strict=True)],
            finished=[bool(ids) and ids[-1] in self._end_ids for ids in responses],
            advantages=advantages if advantages.ndim == 1 else None,
            reward_values=values,
            rewards=rewards,
            correct=None if self._correct is None else self._correct(values, rewards),
            prompt_ids=[],
            signs=np.sign(largest),
            all_lengths=np.asarray(lengths),
            group_size=trainer.num_generations,
            microbatches=trainer.args.steps_per_generation * trainer.num_iterations,
        )

    def _complete(self, generation: Generation, everyone: list[Any]) -> None:
        if any(row is None for row in everyone):
            return  # recording failed in another process, and ends in all of them after this update
        generation.prompt_ids = [name for name, _, _ in everyone]
        generation.signs = np.asarray([sign for _, sign, _ in everyone])
        generation.all_lengths = np.asarray([length for _, _, length in everyone])
        generation.chosen = self._spec.drawn(generation.step, generation.prompt_ids)

    def _prepare_inputs(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        before = self.trainer._buffered_inputs
        inputs = original(*args, **kwargs)
        if self._watching and self.trainer._buffered_inputs is not before and self._fresh is not None:
            with self.observer.guard():
                generation, self._fresh = self._fresh, None
                left = np.ones(len(generation), dtype=bool)
                for part in self.trainer._buffered_inputs:
                    used = part[ROW][policy_mask(part).any(1)].cpu().numpy()
                    left[used - generation.first] = False
                generation.dropped = left
                self._generation = generation
                self.observer.generated(generation)
        return inputs

    # -- losses ----------------------------------------------------------------------------------------------------

    def _compute_loss(self, original: Callable[..., Any], model: Any, inputs: dict[str, Any]) -> Tensor:
        if not (self._watching and torch.is_grad_enabled()):
            loss: Tensor = original(model, inputs)
            return loss
        twin = copy.copy(self.trainer)  # before the call: what it counts (an entropy controller) is as it was then
        self._entropy_masks = []
        with self.observer.guard():
            self._part = self._begun(inputs)
        try:
            loss = original(model, inputs)
        finally:
            part, self._part = self._part, None
        if part is not None and not self.observer.failed:
            self._parts.append(part)
            with self.observer.guard():
                self._finish(part, twin, loss)
        return loss

    def _begun(self, inputs: dict[str, Any]) -> Microbatch:
        trainer, generation = self.trainer, self._generation
        if generation is None or ROW not in inputs:
            raise UsageError(
                f"trainer: expected microbatches of the rollouts that {type(trainer).__name__} generated, got some of "
                "another source; attach to the model instead (analysis.attach)"
            )
        per_generation = trainer.args.steps_per_generation
        inputs = {name: _copied(value) for name, value in inputs.items()}
        mask, advantages = policy_mask(inputs), inputs["advantages"]
        return Microbatch(
            generation=generation,
            update=trainer.state.global_step,
            epoch=trainer._step // per_generation % trainer.num_iterations,
            minibatch=trainer._step % per_generation // trainer.args.gradient_accumulation_steps,
            rows=inputs[ROW],
            tokens=inputs["completion_ids"],
            mask=mask,
            advantages=(advantages[:, None] if advantages.ndim == 1 else advantages).expand(mask.shape),
            inputs=inputs,
        )

    def _log_probs(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        part = self._part
        if part is None or not torch.is_grad_enabled():
            return original(*args, **kwargs)
        outputs: list[Any] = []
        handle = self.head.backbone.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            made = original(*args, **kwargs)
        finally:
            handle.remove()
        with self.observer.guard():
            if part.weight_probe is not None:
                raise UsageError(
                    f"trainer: expected one pass over each microbatch in the loss, got two in {type(self.trainer)}; "
                    "attach to the model instead (analysis.attach)"
                )
            self._see(part, made[0], made[1], outputs)
        return made

    def _see(self, part: Microbatch, log_probs: Tensor, entropies: Tensor | None, outputs: list[Any]) -> None:
        # copies: the loss may write over what it is given, without a trace where a kernel does
        part.log_probs, part.graph, part.weight_probe = log_probs.detach().clone(), log_probs, WeightProbe(log_probs)
        if entropies is not None:
            part.entropies = entropies.detach().clone()
            part.entropy_probe = WeightProbe(entropies) if entropies.requires_grad else None
        width = part.mask.shape[1]
        hidden = torch.cat([last_hidden_state(output).detach() for output in outputs])
        if (len(hidden), width) != part.mask.shape or hidden.shape[1] <= width:
            raise UsageError(
                f"trainer: expected hidden states of {len(part.mask)} padded rows, got {tuple(hidden.shape)}; packed "
                "rows (padding_free) are not read: set padding_free=False"
            )
        names = part.generation.prompt_ids
        chosen = torch.tensor([names[row] in part.generation.chosen for row in part.rows.tolist()], dtype=torch.bool)
        part.keep = (part.mask & chosen.to(part.mask.device)[:, None]).flatten().nonzero()[:, 0]
        part.stats = token_statistics(
            hidden=hidden[:, -width - 1 : -1].flatten(0, 1)[part.keep],
            tokens=part.tokens.flatten()[part.keep],
            temperature=self.trainer.temperature,
            top_k=min(self._spec.top_k, self.head.vocabulary),
            rank=self._spec.rank,
            **self.head.arguments(),
        )
        check_log_probs(part.log_probs.flatten()[part.keep], part.stats.log_prob, self.head.description, _BLIND_HEAD)

    def _finish(self, part: Microbatch, twin: Any, loss: Tensor) -> None:
        if part.log_probs is None:
            raise UsageError(
                f"trainer: expected {type(self.trainer).__name__} to compute its loss from "
                "_get_per_token_logps_and_entropies, got a loss without a call of it; attach to the model instead "
                "(analysis.attach)"
            )
        trainer = self.trainer
        part.loss, part.loss_probe = float(loss.detach()), WeightProbe(loss)
        scaler = getattr(trainer.accelerator, "scaler", None)
        part.scale = trainer.accelerator.num_processes * (1.0 if scaler is None else float(scaler.get_scale()))
        part.ratio, part.clip = ratio_and_clip(trainer, part.inputs, part.log_probs)
        part.normalizer = normalizer_of(trainer, part.inputs)
        has_kl = getattr(trainer, "beta", 0.0) != 0.0 and "ref_per_token_logps" in part.inputs
        if has_kl or self.observer.needs_replay(part.update):
            replay(twin, part, self._entropy_masks, with_kl=has_kl)
        assert part.graph is not None
        self.observer.computed(part, part.graph)
        part.graph = None
        for probe in (part.weight_probe, part.entropy_probe):
            if probe is not None and probe.reached:  # by a backward pass of the observer, not by that of the trainer
                probe.take()

    def _high_entropy(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        mask: Tensor = original(*args, **kwargs)
        if self._part is not None:
            self._entropy_masks.append(mask)
        return mask

    def _get_grad_norm(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        norm = original(*args, **kwargs)
        self._grad_norm = None if norm is None else float(norm)
        return norm

    # -- the callback ----------------------------------------------------------------------------------------------

    def before_step(self, optimizer: Any) -> None:
        self._skipped = all(p.grad is None for group in optimizer.param_groups for p in group["params"])
        if self.observer.failed:
            return
        with self.observer.guard():
            lost = [part for part in self._parts if not part.caught and bool(part.mask.any())]
            if lost:
                raise UsageError(
                    "trainer: expected a gradient through the log-probs of each microbatch, got a backward pass "
                    "without one; attach to the model instead (analysis.attach)"
                )
            parts = [part for part in self._parts if part.caught]
            lr = float(optimizer.param_groups[0]["lr"])
            self.observer.differentiated(parts, lr, self._grad_norm, self._skipped)

    def after_step(self) -> None:
        skipped = self._skipped or bool(self.trainer.accelerator.optimizer_step_was_skipped)
        self.observer.updated(skipped)
        self._forget()
        self._grad_norm = None


class _Callback(TrainerCallback):
    def __init__(self, hooks: TrlHooks) -> None:
        self._hooks = hooks

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tell(lambda observer: observer.started(state.global_step))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tell(lambda observer: observer.begun())

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hooks.before_step(kwargs["optimizer"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hooks.after_step()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        last = control.should_training_stop or state.global_step >= state.max_steps
        self._tell(lambda observer: observer.saved(last))

    def _tell(self, what: Callable[[Observer], None]) -> None:
        observer = self._hooks.observer
        if not observer.failed:
            with observer.guard():
                what(observer)


def _copied(value: Any) -> Any:
    """A copy of numbers of rollouts or tokens, which a loss may overwrite; ids, masks and pictures are as they came."""
    numbers = isinstance(value, Tensor) and value.is_floating_point() and value.ndim <= 2
    return value.detach().clone() if numbers else value


def _furthest_from_zero(values: np.ndarray) -> np.ndarray:
    """Of each row the value of the largest magnitude."""
    return values[np.arange(len(values)), np.abs(values).argmax(1)]
