"""The instrumented loop of one run: rollouts, rewards, minibatch updates, evaluation, records.

What is trained does not depend on what is recorded or evaluated: each draws from its own random stream, and nothing
that is measured touches a parameter. Every `record.chunk` steps the records and the whole resume state are committed
together; a run that stops anywhere resumes from its last commit and ends with the same records.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from toy_models import Prompt
from toy_models.adapters import TrainedWeights, start_copy
from toy_models.bases.recipes import BASES

from ..common.batching import check_batching
from ..common.devices import pick_device
from ..common.randomness import Streams
from ..errors import DivergedError, UsageError
from ..evaluation import FixedPrefixes, success_probability
from ..evaluation.known_solutions import KnownSolutions
from ..laws import TokenStatistics
from ..objectives import get as get_objective
from ..recipes.fields import RunConfig, objective_settings
from ..records import RunWriter
from ..records.encoding import Columns
from ..records.rows import PromptRow, prompt_rows
from .context_follower import ContextFollower
from .critic import Critic
from .entropy_control import AdaptiveEntropy
from .exact_loss import exact_loss
from .fixed_rollouts import FixedRollouts
from .master_weights import MasterWeights
from .measurements import HeldOut, Measurements, Timings, prompts_of
from .minibatches import plan_minibatches
from .optimizer import learning_rate, make_optimizer
from .recomputed_layers import check_layers
from .record_rows import UpdateIndex, choose_groups, pass_statistics, rollout_rows, step_row, token_rows, update_row
from .regularizers import Regularizers
from .rollout_model import RolloutModel
from .rollouts import PromptCursor, RolloutBatch, collect_rollouts
from .run_state import Position, Stateful, check_reference, fixed_prefixes, restore, resume_state
from .setup import check_fit, check_sharing, load_policy_and_task, load_teacher, run_identity
from .sign_passes import PassRunner, wide
from .step_targets import StepTargets
from .targets import fix_targets
from .update import Updater, UpdateResult

__all__ = ["Loop", "train"]

OnUpdate = Callable[[UpdateIndex, RolloutBatch, StepTargets, UpdateResult], None]


def train(
    config: RunConfig,
    folder: str | Path,
    *,
    run_id: str,
    label: str,
    resume: bool = False,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> str:
    """Train and record one run in this process, at this process's thread count.

    Args:
        config: every factor of the run.
        folder: the run folder.
        run_id: name of the run, for run.json.
        label: name of its method, for run.json.
        resume: resume from the last commit of the folder.
        report: receives progress events: phase, step, steps, reward, correct, entropy, tokens_per_s.
        should_stop: asked after every step; True commits what there is and ends the run as interrupted.

    Returns:
        "complete", "interrupted" or "diverged" (a non-finite loss or gradient, named in run.json's `error`).

    Raises:
        UsageError: the configuration does not fit the task or the model, or the folder holds another run.
    """
    return Loop(
        config, Path(folder), run_id=run_id, label=label, resume=resume, report=report, should_stop=should_stop
    ).run()


class Loop:
    """One run: its policy, its data and its records. `on_update` may be set to look at every update as it is made."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        *,
        run_id: str,
        label: str,
        resume: bool = False,
        report: Callable[[dict[str, Any]], None] = lambda event: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.config, self._report, self._should_stop = config, report, should_stop
        self.on_update: OnUpdate | None = None
        device = pick_device(config.device)
        self.policy, self.task = load_policy_and_task(config, device, folder.parent)
        self.train_prompts = prompts_of(self.task, "train", config.task.train_prompts, "task.train_prompts")
        self.held_out = HeldOut.of(self.task, config.eval, config.record)
        longest = max(config.rollout.max_new_tokens or 0, self.task.max_new_tokens)
        prompts = [*self.train_prompts, *self.held_out.evaluated, *self.held_out.noise]
        check_fit(self.policy.model, self.task, prompts, longest)
        if config.update.gradient_checkpointing:
            check_layers(self.policy.model)
        if config.policy.base not in BASES:
            check_batching(self.policy, prompts, longest, "policy.base")
            if config.update.shared_prompts:
                check_sharing(self.policy, prompts, longest, "policy.base")
        self.streams = Streams(config.seed)
        self.objective = get_objective(config.objective.name, **objective_settings(config.objective))
        referred = config.objective.kl_coef > 0 or "ref_log_probs" in self.objective.entry.needs
        self.reference = start_copy(self.policy.model) if referred else None
        self.teacher = load_teacher(config, self.policy, device, prompts, longest)
        identity = run_identity(config, self.policy.model, self.task, run_id, label, self.teacher)
        self.masters: MasterWeights | None = None
        if config.policy.dtype == "bfloat16":  # after everything that compares models or knows them by their weights
            self.masters = MasterWeights([p for p in self.policy.model.parameters() if p.requires_grad])
            for model in filter(None, (self.policy.model, self.reference, self.teacher)):
                model.to(torch.bfloat16)
        self.entropy = None if config.objective.entropy_target is None else AdaptiveEntropy(config.objective)
        self.fixed_rollouts = FixedRollouts(self.train_prompts) if config.rollout.fixed else None
        refresh_every = 0 if config.rollout.fixed else config.rollout.refresh_every
        dtype = getattr(torch, config.rollout.dtype or config.policy.dtype)
        self.sampler = RolloutModel(self.policy.model, dtype, refresh_every)
        self.trained = TrainedWeights(self.policy.model)
        stepped = self.policy.model.parameters() if self.masters is None else self.masters.values
        self.optimizer = make_optimizer(stepped, config.optimizer)
        self.cursor = PromptCursor(len(self.train_prompts), config.rollout.prompts, self.streams["prompts"])
        self.critic = Critic(self.policy.model, config.critic) if config.critic.enabled else None
        regularizers = Regularizers.of(config.objective)
        self.updater = Updater(
            PassRunner(
                self.policy,
                self.objective,
                regularizers,
                config.update,
                config.rollout.temperature,
                keeps_hidden=self.critic is not None,
            ),
            self.optimizer,
            config.update,
            max_grad_norm=config.optimizer.max_grad_norm,
            critic=self.critic,
            generator=self.streams["objective"],
            entropy=self.entropy,
            masters=self.masters,
        )
        self.position = Position()
        self.timings = Timings(device)
        self.writer = RunWriter(folder, resume=resume, run_json=identity)
        stored = self.writer.resume_state()
        self._started = stored is not None
        if stored is None:
            self.fixed = FixedPrefixes.from_samples(
                self.policy,
                self.task,
                self.held_out.evaluated,
                generator=self.streams["evaluation"],
                max_tokens=config.rollout.batch_tokens,
            )
        else:
            self.fixed = fixed_prefixes(stored[1])
        self.contexts = ContextFollower(
            self.policy,
            self.fixed,
            self.held_out.evaluated,
            config.record,
            config.rollout.temperature,
            self.streams["recording"],
            self.optimizer,
            config.optimizer,
            share=config.update.shared_prompts,
        )
        self.known = KnownSolutions(self.task)
        self.measurements = Measurements(
            self.policy,
            self.sampler,
            self.task,
            self.held_out,
            self.fixed,
            config.eval,
            self.streams["evaluation"],
            self.known,
            config.rollout.batch_tokens,
        )
        self._commits_without_state = 0
        if stored is not None:
            self.position = restore(stored[1], self._parts())
            check_reference(self.reference, stored[1], self.writer.info, identity, frozen=self.trained.partial)

    # -- the run --------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """Run to the end, to a stop or to a divergence; returns the status that run.json got."""
        steps, position = self.config.steps, self.position
        try:
            if not self._started:
                self._record_prompts()
                self._evaluate(final=True)
                self._measure_noise(due=True)
                self._commit(timed=False)
            while position.step < steps and position.diverged is None:
                self._one_step()
                done = position.step == steps
                stop = self._should_stop() and not done
                if done or position.step % self.config.eval.every == 0:
                    self._evaluate(final=done)
                self._measure_noise(due=done)
                if done or stop or position.step % self.config.record.chunk == 0:
                    self._commit(resumable=stop)
                if stop:
                    self.writer.finish("interrupted")
                    return "interrupted"
        except DivergedError as error:
            position.step += 1  # the step that broke off is the run's last
            position.diverged = str(error)
            self._commit(timed=False, resumable=True)  # so that a run killed right after it ends likewise
        if position.diverged is not None:
            self.writer.update_run_json(error=position.diverged)
            self.writer.finish("diverged")
            self._tell("diverged", error=position.diverged)
            return "diverged"
        if self.config.record.checkpoint:
            with self._timed("commit"):
                self.policy.save(self.writer.folder / "checkpoints" / "final")
        self.writer.finish("complete")
        return "complete"

    def _one_step(self) -> None:
        config, step, started = self.config, self.position.step, time.perf_counter()
        self._tell("rollout")
        with self._timed("rollout") as timing:
            batch = self._rollouts()
            timing["tokens"] = int(batch.lengths.sum())
        groups = choose_groups(len(batch.prompts), config.record.tokens, self.streams["recording"])
        kept = choose_groups(len(batch.prompts), config.record.rollouts, self.streams["recording"])
        lr = learning_rate(config.optimizer, step, config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        exact = config.update.estimator == "exact"
        epochs = range(0 if exact else config.update.epochs)
        plans = [plan_minibatches(batch.selected, config.update, self.streams["shuffle"]) for _ in epochs]
        self._tell("update")
        targets, made = StepTargets.on_policy(batch), 0
        trained = sum(int(batch.lengths[rows].sum()) for plan in plans for rows in plan)
        with self._timed("update") as timing:
            if exact:
                self._exact_update(batch, lr)
                made = 1
            else:
                earlier = self.sampler.earlier(step)
                targets = fix_targets(batch, plans, self.updater, self.reference, self.teacher, earlier)
                made = self._sampled_updates(batch, targets, plans, groups, lr)
            timing["tokens"] = trained
        self.writer.append("rollouts", rollout_rows(batch, targets.advantages, kept, self._decode))
        row = step_row(batch, made, self.sampler.age(step))
        self.writer.append("steps", row)
        self.position.step += 1
        seconds = time.perf_counter() - started
        self._tell(
            "update",
            reward=row["reward_mean"][0],
            correct=row["correct_ratio"][0],
            entropy=row["entropy_own"][0],
            tokens_per_s=(int(batch.lengths.sum()) + trained) / seconds,
        )

    def _rollouts(self) -> RolloutBatch:
        """The rollouts of the present step."""
        config, step = self.config, self.position.step
        kept = None if self.fixed_rollouts is None else self.fixed_rollouts.at(step)
        if kept is not None:
            return kept
        indices = self.cursor.next()
        batch = collect_rollouts(
            self.policy,
            self.sampler.current(step),
            self.task,
            [self.train_prompts[index] for index in indices],
            self.objective,
            config.rollout,
            self.streams,
            step,
            false_positive=config.task.false_positive,
            false_negative=config.task.false_negative,
            scores=config.task.reward == "score",
        )
        if self.fixed_rollouts is not None:
            self.fixed_rollouts.keep(indices, batch)
        return batch

    def _sampled_updates(
        self,
        batch: RolloutBatch,
        targets: StepTargets,
        plans: list[list[torch.Tensor]],
        groups: torch.Tensor,
        lr: float,
    ) -> int:
        """Make and record the planned updates; the number of those that were not skipped."""
        made = 0
        for epoch, plan in enumerate(plans):
            for minibatch, rows in enumerate(plan):
                index = UpdateIndex(self.position.update, batch.step, epoch, minibatch)
                result = self._sampled_update(index, batch, targets, rows, groups, lr)
                made += not result.skipped
                for sign_pass in result.passes:
                    targets = targets.with_old(sign_pass.rows, sign_pass.old_log_probs)
        return made

    def _sampled_update(
        self,
        index: UpdateIndex,
        batch: RolloutBatch,
        targets: StepTargets,
        rows: torch.Tensor,
        groups: torch.Tensor,
        lr: float,
    ) -> UpdateResult:
        fields = self.config.record
        follow = fields.contexts > 0 and len(rows) > 0
        if follow:
            with self._timed("contexts"):
                self.contexts.before(index, batch, rows, self.writer)
        before = self._parameters()
        by_sign = fields.signs_every > 0 and index.update % fields.signs_every == 0
        statistics: list[TokenStatistics] = []
        tokens: list[Columns] = []

        def look(result: UpdateResult) -> None:
            for sign_pass in result.passes if fields.tokens > 0 else ():
                statistics.append(pass_statistics(sign_pass, fields))
                if (columns := token_rows(index, sign_pass, batch, groups, fields, statistics[-1])) is not None:
                    tokens.append(columns)

        result = self.updater.apply(batch, targets, rows, self.reference, str(index), by_sign=by_sign, before_step=look)
        norm = self._step_norm(before)
        for columns in tokens:
            self.writer.append("tokens", columns)
        self.writer.append("updates", update_row(index, result, statistics, lr, norm))
        _check_step(norm, index)
        self.contexts.stepped(index, result, before)
        if follow:
            with self._timed("contexts"):
                self.contexts.after(index, result, before, self.writer)
        if self.on_update is not None:
            self.on_update(index, batch, targets, result)
        self.position.update += 1
        self.position.updates_made += not result.skipped
        return result

    def _exact_update(self, batch: RolloutBatch, lr: float) -> None:
        index = UpdateIndex(self.position.update, batch.step, 0, 0)
        constant = self.config.update.constant
        assert constant is not None
        solutions = [self._solutions(prompt) for prompt in batch.prompts]
        before = self._parameters()

        def loss() -> torch.Tensor:
            p = success_probability(
                self.policy.model,
                [prompt.ids for prompt in batch.prompts],
                solutions,
                self.config.rollout.temperature,
            )
            return exact_loss(self.objective, p, len(batch), constant)

        result = self.updater.apply_exact(loss, str(index))
        result.normalizer = constant
        norm = self._step_norm(before)
        self.writer.append("updates", update_row(index, result, [], lr, norm))
        _check_step(norm, index)
        self.position.update += 1
        self.position.updates_made += 1

    def _solutions(self, prompt: Prompt) -> list[tuple[int, ...]]:
        """The correct responses to a prompt; UsageError where the task does not list them."""
        listed = self.known.of(prompt)
        if listed is None:
            raise UsageError(
                f"update.estimator: exact needs a task that lists its solutions; {self.task.name} does not; choose "
                "'sampled'"
            )
        return listed

    def _trained(self) -> dict[str, torch.Tensor]:
        """What is being trained, by name."""
        return {name: p.detach() for name, p in self.policy.model.named_parameters() if p.requires_grad}

    def _parameters(self) -> dict[str, torch.Tensor]:
        """A copy of what is being trained, by name."""
        return {name: parameter.clone() for name, parameter in self._trained().items()}

    def _step_norm(self, before: dict[str, torch.Tensor]) -> float:
        """‖Δθ‖ from the parameters `before`, one parameter at a time: a step is never in memory as a whole."""
        norms = [
            torch.linalg.vector_norm(value - before[name], dtype=wide(value.dtype))
            for name, value in self._trained().items()
        ]
        return torch.linalg.vector_norm(torch.stack(norms)).item()

    # -- records --------------------------------------------------------------------------------------------------

    def _record_prompts(self) -> None:
        for prompts in (self.train_prompts, self.held_out.evaluated):
            # Counted for the prompts that are evaluated; enumerating every training prompt would take seconds.
            counted = [self.known.of(p) if p.split != "train" else None for p in prompts]
            rows = [
                PromptRow(
                    prompt_id=prompt.prompt_id,
                    split=prompt.split,
                    text=prompt.text,
                    token_ids=prompt.ids,
                    answer=prompt.answer,
                    n_solutions=None if solutions is None else len(solutions),
                )
                for prompt, solutions in zip(prompts, counted, strict=True)
            ]
            self.writer.append("prompts", prompt_rows(rows))

    def _evaluate(self, *, final: bool) -> None:
        position = self.position
        self._tell("evaluate")
        with self._timed("evaluate"):
            columns = self.measurements.evaluation(position.step, position.updates_made, final=final)
            self.writer.append("evals", columns)

    def _measure_noise(self, *, due: bool) -> None:
        config, position = self.config, self.position
        every = config.record.noise_every
        if every == 0 or not (due or position.step % every == 0):
            return
        self._tell("noise")
        with self._timed("noise"):
            columns = self.measurements.noise(
                position.step,
                position.updates_made,
                rollout=config.rollout,
                replicates=config.record.noise_replicates,
                lambda_=config.objective.lambda_,
                generator=self.streams["gradient_noise"],
            )
        self.writer.append("noise", columns)

    def _commit(self, *, timed: bool = True, resumable: bool = False) -> None:
        """Commit the records, with the state to resume from where that is due or the run ends here (`resumable`)."""
        every = self.config.record.state_every
        self._commits_without_state += 1
        due = every > 0 and (resumable or self._commits_without_state >= every)
        if timed:
            self._tell("commit")
        with self._timed("commit"):
            for row in self.timings.take():
                self.writer.append("timings", {name: [value] for name, value in row.items()})
            state = resume_state(self._parts(), self.position, self.fixed) if due else None
            self.writer.commit(self.position.step, state)
        if due:
            self._commits_without_state = 0

    def _parts(self) -> dict[str, Stateful | None]:
        """Everything whose state a resumed run needs, by its key in the resume state."""
        later: dict[str, Stateful | None] = {
            "entropy": self.entropy,
            "masters": self.masters,
            "sampler": self.sampler if self.sampler.lags else None,
            "fixed_rollouts": self.fixed_rollouts,
        }
        always: dict[str, Stateful | None] = {
            "model": self.trained,
            "optimizer": self.optimizer,
            "critic": self.critic,
            "streams": self.streams,
            "cursor": self.cursor,
            "contexts": self.contexts,
        }
        return {name: part for name, part in later.items() if part is not None} | always

    def _decode(self, ids: list[int]) -> str:
        return str(self.policy.tokenizer.decode(ids))

    def _tell(self, phase: str, **details: float | str) -> None:
        self._report({"phase": phase, "step": self.position.step, "steps": self.config.steps, **details})

    def _timed(self, phase: str) -> contextlib.AbstractContextManager[dict[str, Any]]:
        return self.timings.phase(phase, self.position.step)


def _check_step(norm: float, index: UpdateIndex) -> None:
    if not math.isfinite(norm):
        raise DivergedError(f"{index}: the optimiser made a step of norm {norm}; a lower optimizer.lr usually helps")
