"""The one place where a recipe is checked completely before anything runs: `plan`.

Single values and their combinations are checked when a `Recipe` is made; `plan` adds everything outside it that can be
known without loading a model: base folders, models of the Hub, chat templates, files of prompts, verifiers, losses from
files, numbers of prompts and workers. A run and a dry run both start with it, so that a dry run refuses what a run
refuses. Only what needs the model itself is left to the run: its device, its vocabulary and the lengths of prompts in
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toy_models.tasks.file_task import FILE_TASK
from toy_models.tasks.start_tokens import start_tokens

from ..common.provenance import cores
from ..errors import UsageError
from .config import show
from .cost import duration_text, estimated_seconds
from .estimates import RunEstimate, estimate_run
from .fields import RunConfig
from .inputs import check_inputs, data_files
from .model_checks import check_base, check_lora, check_template, is_toy, local_model
from .prompt_counts import check_prompt_counts
from .public_tasks import check_public_task
from .recipe import PlannedRun, Recipe

__all__ = ["Plan", "check_base", "plan", "runs_at_a_time"]

_TOY_RATE = 5e-5  # AdamW above this destroys pretrained models within steps
_USUAL_RATE = 1e-6  # of reinforcement learning on pretrained models


@dataclass(frozen=True)
class Plan:
    """What running a recipe means.

    Attributes:
        runs: every run, in order.
        workers: how many of them are trained at a time.
        cost: about how long that takes, as text.
        warnings: what is allowed and probably not meant.
        estimates: memory, disk and time of each run, in their order; None for a run of a built-in base, and where the
            sizes of the model cannot be told.
    """

    runs: tuple[PlannedRun, ...]
    workers: int
    cost: str
    warnings: tuple[str, ...]
    estimates: tuple[RunEstimate | None, ...] = ()


def plan(recipe: Recipe, *, workers: int | None = None) -> Plan:
    """Check a recipe completely without loading a model, and say what running it means.

    Args:
        recipe: a recipe, whose fields are valid already.
        workers: runs at a time; as many as the cores allow by default.

    Raises:
        UsageError: what is expected, what came, and how to fix it.

    Example:
        >>> from analysis.recipes import Recipe, plan
        >>> planned = plan(Recipe.load("tiny"), workers=2)
        >>> [run.run_id for run in planned.runs], planned.warnings
        (['psr-seed0', 'nsr-seed0'], ())
    """
    runs = tuple(recipe.expand())
    at_a_time = runs_at_a_time([run.config for run in runs], workers)
    for config in (run.config for run in runs):
        check_base("policy.base", config.policy.base, config.policy.revision)
        if config.objective.teacher is not None:
            check_base("objective.teacher", config.objective.teacher, config.objective.teacher_revision)
        check_lora(config)
        check_template(config)
        check_inputs(config)
        check_public_task(config)
        check_prompt_counts(config)
    warnings = dict.fromkeys(warning for run in runs for warning in _warnings(run.config))
    estimates = tuple(estimate_run(run.config) for run in runs)
    return Plan(runs, at_a_time, _cost(recipe, runs, at_a_time, estimates), tuple(warnings), estimates)


def runs_at_a_time(configs: Sequence[RunConfig], workers: int | None = None) -> int:
    """How many runs are trained at a time: `workers`, by default cores / threads of a run.

    Raises:
        UsageError: `workers` is not a positive integer.
    """
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise UsageError(f"workers: expected an integer ≥ 1, got {workers!r}")
    return workers or max(1, cores() // max((config.threads for config in configs), default=1))


def _warnings(config: RunConfig) -> list[str]:
    path = local_model(config)
    return [] if path is None else [*_rate_warning(config, path), *_start_warning(config, path)]


def _rate_warning(config: RunConfig, path: Path) -> list[str]:
    base, optimizer = config.policy.base, config.optimizer
    if optimizer.name != "adamw" or optimizer.lr <= _TOY_RATE or config.policy.lora_r is not None or is_toy(path):
        return []
    return [
        f"optimizer.lr = {show(optimizer.lr)} with policy.base = {show(base)}: this learning rate suits the built-in "
        f"toys and destroys a pretrained model within steps; set optimizer.lr = {show(_USUAL_RATE)}, which is usual"
    ]


def _start_warning(config: RunConfig, path: Path) -> list[str]:
    """A word on prompts without the start token that the tokenizer puts before a text by default."""
    task = config.task
    if task.name != FILE_TASK or task.bos or task.chat_template:  # a template may write it
        return []
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    except Exception:  # a bare Exception of tokenizers; the loader says what is wrong with it, or needs no such file
        return []
    word = "".join(str(tokenizer.id_to_token(i)) for i in start_tokens(tokenizer))
    prompt = data_files(task).read()["train"][0].values[task.prompt_column] if word else word
    if not word or (isinstance(prompt, str) and prompt.startswith(word)):
        return []
    return [
        f"task.bos = false with policy.base = {show(config.policy.base)}: its tokenizer puts the start token {word} "
        "before a text by default, and the prompts of task.train_file do not begin with it; set task.bos = true if the "
        "model was trained with it"
    ]


def _cost(recipe: Recipe, runs: tuple[PlannedRun, ...], workers: int, estimates: tuple[RunEstimate | None, ...]) -> str:
    """What the recipe says where it stands as it was measured, else an estimate."""
    seconds = estimated_seconds([run.config for run in runs], at_a_time=workers)
    if seconds is None:
        return "; ".join(filter(None, (recipe.cost, _estimated_cost(estimates, workers)))) or (
            "unknown: it depends on the model"
        )
    if recipe.cost and recipe.name in Recipe.names():
        measured = [run.config for run in Recipe.load(recipe.name).expand()]
        if seconds == estimated_seconds(measured, at_a_time=workers):
            return recipe.cost
    text = f"{duration_text(seconds)} by a rough estimate ({workers} runs at a time)"
    return f"{text}; the recipe as it was written: {recipe.cost}" if recipe.cost else text


def _estimated_cost(estimates: tuple[RunEstimate | None, ...], workers: int) -> str:
    """The time of runs of models that are not built in; empty where it is not known for one of them."""
    seconds = [estimate.seconds if estimate else None for estimate in estimates]
    known = [value for value in seconds if value is not None]
    if not known or len(known) < len(seconds):
        return ""
    longest = next(estimate for estimate in estimates if estimate and estimate.seconds == max(known))
    total = max(max(known), sum(known) / min(workers, len(known)))
    return (
        f"at most {duration_text(total)} on {longest.device} by a count of operations, with responses of "
        f"{longest.response} tokens; right within a factor of three"
    )
