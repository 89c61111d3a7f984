"""The one place where a recipe is checked completely before anything runs: `plan`.

Single values and their combinations are checked when a `Recipe` is made; `plan` adds everything outside it that can be
known without loading a model: base folders, chat templates, files of prompts, verifiers, losses from files, numbers of
prompts and workers. A run and a dry run both start with it, so that a dry run refuses what a run refuses. Only what
needs the model itself is left to the run: its device, its vocabulary and the lengths of prompts in tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toy_models.bases.recipes import BASES
from toy_models.messages import nearest
from toy_models.model_sources.gguf_header import read_header
from toy_models.tasks.file_task import FILE_TASK
from toy_models.tasks.start_tokens import start_tokens

from ..common.provenance import cores
from ..errors import UsageError
from .config import show
from .cost import duration_text, estimated_seconds
from .fields import GIVEN, RunConfig
from .inputs import check_inputs, data_files
from .prompt_counts import check_prompt_counts
from .recipe import PlannedRun, Recipe

__all__ = ["Plan", "check_base", "plan", "runs_at_a_time"]

_TOY_RATE = 5e-5  # AdamW above this destroys pretrained models within steps
_TOY_WIDTH = 256  # the built-in bases are narrower, pretrained models wider
_USUAL_RATE = 1e-6  # of reinforcement learning on pretrained models
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


@dataclass(frozen=True)
class Plan:
    """What running a recipe means.

    Attributes:
        runs: every run, in order.
        workers: how many of them are trained at a time.
        cost: about how long that takes, as text.
        warnings: what is allowed and probably not meant.
    """

    runs: tuple[PlannedRun, ...]
    workers: int
    cost: str
    warnings: tuple[str, ...]


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
        check_base("policy.base", config.policy.base)
        if config.objective.teacher is not None:
            check_base("objective.teacher", config.objective.teacher)
        _check_template(config)
        check_inputs(config)
        check_prompt_counts(config)
    warnings = dict.fromkeys(warning for run in runs for warning in _warnings(run.config))
    return Plan(runs, at_a_time, _cost(recipe, runs, at_a_time), tuple(warnings))


def runs_at_a_time(configs: Sequence[RunConfig], workers: int | None = None) -> int:
    """How many runs are trained at a time: `workers`, by default cores / threads of a run.

    Raises:
        UsageError: `workers` is not a positive integer.
    """
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise UsageError(f"workers: expected an integer ≥ 1, got {workers!r}")
    return workers or max(1, cores() // max((config.threads for config in configs), default=1))


def check_base(field: str, base: str) -> None:
    """Refuse a base that is plainly not one; the loader says what else may be wrong.

    Args:
        field: the field or option that names the base, for the message.
        base: a built-in base, a folder, or a GGUF file.

    Raises:
        UsageError: it is none of these, or the folder lacks a model or a tokenizer.
    """
    if base in BASES or base == GIVEN:
        return
    folder = Path(base).expanduser()
    if folder.is_file():
        try:
            read_header(folder)
        except (ValueError, OSError) as error:
            raise UsageError(f"{field} = {base!r}: {error}") from error
        return
    if not (folder / "config.json").is_file():
        reason = "has no config.json" if folder.is_dir() else "is not a folder"
        hint = nearest(base, BASES)
        if re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not folder.is_dir():  # a name of the Hugging Face Hub
            hint = f"a model of the Hub is downloaded with: hf download {base} --local-dir FOLDER"
        raise UsageError(
            f"{field}: expected a built-in base, a folder with a Hugging Face causal LM or a GGUF file, got {base!r}, "
            f"which {reason} ({hint})"
        )
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise UsageError(f"{field}: {folder} has no tokenizer (tokenizer.json); save the model's own there")


def _check_template(config: RunConfig) -> None:
    base, folder = config.policy.base, Path(config.policy.base).expanduser()
    if base not in BASES and base != GIVEN and config.task.chat_template and not _has_chat_template(folder):
        raise UsageError(
            f"task.chat_template: expected a tokenizer with a chat template, got that of {folder}, which has none; "
            "leave task.chat_template out, or save a tokenizer with a template there"
        )


def _has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer of a folder has a chat template, by the places where transformers looks for one."""
    if folder.is_file():
        return "tokenizer.chat_template" in read_header(folder)
    if any(
        (folder / name).exists() for name in ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
    ):
        return True
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True  # the loader says what is wrong with it
    return not isinstance(settings, dict) or bool(settings.get("chat_template"))


def _is_toy(base: str) -> bool:
    """Whether the model of a folder or file is as small as the built-in bases: a checkpoint of one of them, say."""
    path = Path(base).expanduser()
    if path.is_file():
        header = read_header(path)
        return int(header.get(f"{header['general.architecture']}.embedding_length", _TOY_WIDTH + 1)) <= _TOY_WIDTH
    try:
        settings = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    width = settings.get("hidden_size") if isinstance(settings, dict) else None
    return isinstance(width, int) and width <= _TOY_WIDTH


def _warnings(config: RunConfig) -> list[str]:
    base = config.policy.base
    return [] if base in BASES or base == GIVEN else [*_rate_warning(config), *_start_warning(config)]


def _rate_warning(config: RunConfig) -> list[str]:
    base, optimizer = config.policy.base, config.optimizer
    if optimizer.name != "adamw" or optimizer.lr <= _TOY_RATE or _is_toy(base):
        return []
    return [
        f"optimizer.lr = {show(optimizer.lr)} with policy.base = {show(base)}: this learning rate suits the built-in "
        f"toys and destroys a pretrained model within steps; set optimizer.lr = {show(_USUAL_RATE)}, which is usual"
    ]


def _start_warning(config: RunConfig) -> list[str]:
    """A word on prompts without the start token that the tokenizer puts before a text by default."""
    task, folder = config.task, Path(config.policy.base).expanduser()
    if task.name != FILE_TASK or task.bos or task.chat_template:  # a template may write it
        return []
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
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


def _cost(recipe: Recipe, runs: tuple[PlannedRun, ...], workers: int) -> str:
    """What the recipe says where it stands as it was measured, else an estimate."""
    seconds = estimated_seconds([run.config for run in runs], at_a_time=workers)
    if seconds is None:
        return recipe.cost or "unknown: it depends on the model"
    if recipe.cost and recipe.name in Recipe.names():
        measured = [run.config for run in Recipe.load(recipe.name).expand()]
        if seconds == estimated_seconds(measured, at_a_time=workers):
            return recipe.cost
    text = f"{duration_text(seconds)} by a rough estimate ({workers} runs at a time)"
    return f"{text}; the recipe as it was written: {recipe.cost}" if recipe.cost else text
