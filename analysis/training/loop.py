"""The instrumented loop of one run: rollouts, rewards, minibatch updates, evaluation, records.

What is trained does not depend on what is recorded or evaluated: each draws from its own random stream, and nothing
that is measured touches a parameter. Every `record.chunk` steps the records and the whole resume state are committed
together; a run that stops anywhere goes on from its last commit to the same records.
"""

from __future__ import annotations

import contextlib
import copy
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from toy_models import Prompt

from ..common.devices import pick_device
from ..common.randomness import Streams
from ..errors import DivergedError, UsageError
from ..evaluation import FixedPrefixes, evaluate, success_probability
from ..objectives import get as get_objective
from ..recipes.fields import RunConfig, objective_settings
from ..records import RunWriter
from ..records.rows import PromptRow, prompt_rows
from .context_follower import ContextFollower
from .critic import Critic
from .exact_loss import exact_loss
from .minibatches import plan_minibatches
from .noise_rows import check_enumerable, noise_rows
from .optimizer import learning_rate, make_optimizer
from .record_rows import UpdateIndex, choose_groups, pass_statistics, rollout_rows, step_row, token_rows, update_row
from .rollouts import PromptCursor, RolloutBatch, RolloutModel, collect_rollouts
from .setup import check_fit, load_policy_and_task, run_identity
from .targets import fix_targets
from .update import Updater, UpdateResult

__all__ = ["Loop", "train"]

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere


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
        run_id, label: names of the run and of its method, for run.json.
        resume: go on from the folder's last commit.
        report: receives progress events: phase, step, steps, reward, correct, entropy, tokens_per_s.
        should_stop: asked after every step; True commits what there is and ends the run as interrupted.

    Returns:
        "complete", "interrupted" or "diverged" (a non-finite loss or gradient, named in run.json's `error`).
    """
    return Loop(
        config, Path(folder), run_id=run_id, label=label, resume=resume, report=report, should_stop=should_stop
    ).run()


class Loop:
    """One run's policy, data and books. `on_update` may be set to look at every update as it is made."""

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
        self.on_update: Callable[[UpdateIndex, RolloutBatch, UpdateResult], None] | None = None
        self.device = pick_device(config.device)
        self.policy, self.task = load_policy_and_task(config, self.device, folder.parent)
        self.train_prompts = self._prompts("train", config.task.train_prompts, "task.train_prompts")
        self.validation = self._prompts("validation", config.eval.prompts, "eval.prompts")
        self.test = self._prompts("test", max(config.eval.prompts, config.eval.final_prompts), "eval.final_prompts")
        self.held_out = [*self.validation, *self.test]
        self.noise_prompts: list[Prompt] = []
        if config.record.noise_every:
            self.noise_prompts = self._prompts("validation", config.record.noise_prompts, "record.noise_prompts")
            check_enumerable(self.task, self.noise_prompts)
        longest = max(config.rollout.max_new_tokens or 0, self.task.max_new_tokens)
        check_fit(self.policy.model, self.task, [*self.train_prompts, *self.held_out], longest)
        self.streams = Streams(config.seed)
        self.objective = get_objective(config.objective.name, **objective_settings(config.objective))
        referred = config.objective.kl_coef > 0 or "ref_log_probs" in self.objective.entry.needs
        self.reference = copy.deepcopy(self.policy.model).requires_grad_(False) if referred else None
        self.sampler = RolloutModel(self.policy.model, getattr(torch, config.rollout.dtype or config.policy.dtype))
        self.optimizer = make_optimizer(self.policy.model.parameters(), config.optimizer)
        self.cursor = PromptCursor(len(self.train_prompts), config.rollout.prompts, self.streams["prompts"])
        self.critic = Critic(self.policy.model, config.critic) if config.critic.enabled else None
        self.updater = Updater(
            self.policy, self.optimizer, self.objective, config, self.critic, self.streams["objective"]
        )
        self.step = self.update = self.updates_made = 0
        self._diverged: str | None = None  # why, and so that a run killed right after that commit ends likewise
        self._timings: list[dict[str, Any]] = []
        identity = run_identity(config, self.policy.model, self.task, run_id, label)
        self.writer = RunWriter(folder, resume=resume, run_json=identity)
        stored = self.writer.resume_state()
        if stored is None:
            self.fixed = FixedPrefixes.from_samples(
                self.policy, self.task, self.held_out, generator=self.streams["evaluation"]
            )
            self.contexts = self._follower()
        else:
            state = stored[1]
            self.fixed = FixedPrefixes(**state["fixed"])
            self.contexts = self._follower()
            self._restore(state)
        self._started = stored is not None

    # -- the run --------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """Run to the end, to a stop or to a divergence; returns the status that run.json got."""
        steps = self.config.steps
        try:
            if not self._started:
                self._record_prompts()
                self._evaluate(final=True)
                self._measure_noise(due=True)
                self._commit(timed=False)
            while self.step < steps and self._diverged is None:
                self._one_step()
                done = self.step == steps
                stop = self._should_stop() and not done
                if done or self.step % self.config.eval.every == 0:
                    self._evaluate(final=done)
                self._measure_noise(due=done)
                if done or stop or self.step % self.config.record.chunk == 0:
                    self._commit()
                if stop:
                    self.writer.finish("interrupted")
                    return "interrupted"
        except DivergedError as error:
            self.step += 1  # the step that broke off is the run's last
            self._diverged = str(error)
            self._commit(timed=False)
        if self._diverged is not None:
            self.writer.update_run_json(error=self._diverged)
            self.writer.finish("diverged")
            self._report({"phase": "diverged", "step": self.step, "steps": steps, "error": self._diverged})
            return "diverged"
        if self.config.record.checkpoint:
            with self._timed("commit"):
                self.policy.save(self.writer.folder / "checkpoints" / "final")
        self.writer.finish("complete")
        return "complete"

    def _one_step(self) -> None:
        config, started = self.config, time.perf_counter()
        self._tell("rollout")
        with self._timed("rollout") as timing:
            chosen = [self.train_prompts[i] for i in self.cursor.next()]
            batch = collect_rollouts(
                self.policy, self.sampler.current(), self.task, chosen, self.objective, config, self.streams, self.step
            )
            timing["tokens"] = int(batch.lengths.sum())
        groups = choose_groups(len(chosen), config.record.tokens, self.streams["recording"])
        kept = choose_groups(len(chosen), config.record.rollouts, self.streams["recording"])
        lr = learning_rate(config.optimizer, self.step, config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

        exact = config.update.estimator == "exact"
        plans = (
            []
            if exact
            else [
                plan_minibatches(batch.selected, config.update, self.streams["shuffle"])
                for _ in range(config.update.epochs)
            ]
        )
        self._tell("update")
        trained = 0
        with self._timed("update") as timing:
            if exact:
                made = self._exact_update(batch, lr)
            else:
                fix_targets(batch, plans, self.updater, self.reference)
                made = 0
                for epoch, plan in enumerate(plans):
                    for minibatch, rows in enumerate(plan):
                        index = UpdateIndex(self.update, self.step, epoch, minibatch)
                        made += self._sampled_update(index, batch, rows, groups, lr)
                        trained += int(batch.lengths[rows].sum())
            timing["tokens"] = trained
        self.writer.append("rollouts", rollout_rows(batch, kept, self._decode))
        row = step_row(batch, made)
        self.writer.append("steps", row)
        self.step += 1
        seconds = time.perf_counter() - started
        self._tell(
            "update",
            reward=row["reward_mean"][0],
            correct=row["correct_ratio"][0],
            entropy=row["entropy_own"][0],
            tokens_per_s=(int(batch.lengths.sum()) + trained) / seconds,
        )

    def _sampled_update(
        self, index: UpdateIndex, batch: RolloutBatch, rows: torch.Tensor, groups: torch.Tensor, lr: float
    ) -> int:
        fields = self.config.record
        follow = fields.contexts > 0 and len(rows) > 0
        if follow:
            with self._timed("contexts"):
                self.contexts.before(index, batch, rows, self.writer)
        before = self._parameters()
        result = self.updater.apply(batch, rows, self.reference, str(index))
        steps = {name: value - before[name] for name, value in self._parameters().items()}
        norm = torch.nn.utils.get_total_norm(list(steps.values())).item()
        statistics = []
        if fields.tokens > 0:
            for one in result.passes:
                statistics.append(pass_statistics(one, fields))
                if (columns := token_rows(index, one, batch, groups, fields, statistics[-1])) is not None:
                    self.writer.append("tokens", columns)
        self.writer.append("updates", update_row(index, result, statistics, lr, norm))
        _check_step(norm, index)
        self.contexts.stepped(index, result, before)
        if follow:
            with self._timed("contexts"):
                self.contexts.after(index, result, before, steps, self.writer)
        if self.on_update is not None:
            self.on_update(index, batch, result)
        self.update += 1
        self.updates_made += not result.skipped
        return int(not result.skipped)

    def _exact_update(self, batch: RolloutBatch, lr: float) -> int:
        index = UpdateIndex(self.update, self.step, 0, 0)
        solutions = []
        for prompt in batch.prompts:
            listed = self.task.solutions(prompt.ids)
            if listed is None:
                raise UsageError(
                    f"update.estimator: exact needs a task that lists its solutions; {self.task.name} does not"
                )
            solutions.append(listed)
        before = self._parameters()

        def loss() -> torch.Tensor:
            p = success_probability(
                self.policy.model, [q.ids for q in batch.prompts], solutions, self.config.rollout.temperature
            )
            constant = self.config.update.constant
            assert constant is not None
            return exact_loss(self.objective, p, len(batch), constant)

        result = self.updater.apply_exact(loss, str(index))
        result.normalizer = self.config.update.constant
        steps = [value - before[name] for name, value in self._parameters().items()]
        norm = torch.nn.utils.get_total_norm(steps).item()
        self.writer.append("updates", update_row(index, result, [], lr, norm))
        _check_step(norm, index)
        self.update += 1
        self.updates_made += 1
        return 1

    def _parameters(self) -> dict[str, torch.Tensor]:
        """A copy of what is being trained, by name."""
        named = self.policy.model.named_parameters()
        return {name: p.detach().clone() for name, p in named if p.requires_grad}

    # -- evaluation and books -------------------------------------------------------------------------------------

    def _prompts(self, split: str, count: int, name: str) -> list[Prompt]:
        prompts = self.task.prompts(split)
        if count > len(prompts):
            raise UsageError(
                f"{name}: task {self.task.name} has {len(prompts)} {split} prompts, got {count}; set it "
                "to as many at most"
            )
        return prompts[:count]

    def _follower(self) -> ContextFollower:
        return ContextFollower(
            self.config, self.policy, self.fixed, self.held_out, self.streams["recording"], self.optimizer
        )

    def _record_prompts(self) -> None:
        for prompts in (self.train_prompts, self.held_out):
            # Counted for the prompts that are evaluated; enumerating every training prompt would take seconds.
            counted = [self.task.solutions(p.ids) if p.split != "train" else None for p in prompts]
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
        fields = self.config.eval
        self._tell("evaluate")
        with self._timed("evaluate"):
            prompts = [*self.validation, *self.test[: fields.final_prompts if final else fields.prompts]]
            self.writer.append(
                "evals",
                evaluate(
                    self.policy,
                    self.task,
                    prompts,
                    fixed=self.fixed,
                    temperatures=fields.temperatures,
                    top_k=fields.top_k,
                    top_p=fields.top_p,
                    samples=fields.samples,
                    generator=self.streams["evaluation"],
                    step=self.step,
                    update=self.updates_made,
                ),
            )

    def _measure_noise(self, *, due: bool) -> None:
        every = self.config.record.noise_every
        if every == 0 or not (due or self.step % every == 0):
            return
        self._tell("noise")
        with self._timed("noise"):
            columns = noise_rows(
                self.policy,
                self.sampler.current(),
                self.task,
                self.noise_prompts,
                self.config,
                self.streams["gradient_noise"],
            )
        self.writer.append("noise", {"step": self.step, "update": self.updates_made, **columns})

    def _commit(self, *, timed: bool = True) -> None:
        if timed:
            self._tell("commit")
        with self._timed("commit"):
            rows, self._timings = self._timings, []
            for row in rows:
                self.writer.append("timings", {name: [value] for name, value in row.items()})
            self.writer.commit(
                self.step,
                {
                    "model": self.policy.model.state_dict(),
                    "reference": None if self.reference is None else self.reference.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "critic": None if self.critic is None else self.critic.state_dict(),
                    "streams": self.streams.state_dict(),
                    "cursor": self.cursor.state_dict(),
                    "contexts": self.contexts.state_dict(),
                    "fixed": asdict(self.fixed),
                    "diverged": self._diverged,
                    "step": self.step,
                    "update": self.update,
                    "updates_made": self.updates_made,
                },
            )

    def _restore(self, state: dict[str, Any]) -> None:
        self.policy.model.load_state_dict(state["model"])
        if self.reference is not None:
            self.reference.load_state_dict(state["reference"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"])
        self.streams.load_state_dict(state["streams"])
        self.cursor.load_state_dict(state["cursor"])
        self.contexts.load_state_dict(state["contexts"])
        self._diverged = state["diverged"]
        self.step, self.update, self.updates_made = state["step"], state["update"], state["updates_made"]

    def _decode(self, ids: list[int]) -> str:
        return str(self.policy.tokenizer.decode(ids))

    def _tell(self, phase: str, **numbers: float) -> None:
        self._report({"phase": phase, "step": self.step, "steps": self.config.steps, **numbers})

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[dict[str, Any]]:
        row: dict[str, Any] = {"step": self.step, "phase": phase, "tokens": None}
        start = time.perf_counter()
        yield row
        row["seconds"] = time.perf_counter() - start
        row["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
        row["peak_cuda_bytes"] = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
        self._timings.append(row)


def _check_step(norm: float, index: UpdateIndex) -> None:
    if not math.isfinite(norm):
        raise DivergedError(f"{index}: the optimiser made a step of norm {norm}; a lower optimizer.lr usually helps")
