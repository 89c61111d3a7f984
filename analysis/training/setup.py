"""What a run starts from: its device, its policy and task, and what run.json says of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from toy_models import FileTask, LoraSettings, Policy, Prompt, Task, evaluation_mode, get_task, load_policy
from toy_models.bases.recipes import BASES
from toy_models.end_tokens import add_end_tokens, policy_end_tokens
from toy_models.shared_prefixes import sharing_fails
from toy_models.tasks.encoded_task import EncodedTask
from toy_models.tasks.file_task import FILE_TASK
from toy_models.tasks.registry import PUBLIC_TASKS
from toy_models.tasks.text_task import is_text_task
from toy_models.verifiers import Verifier, get_verifier

from ..common.batching import check_batching
from ..common.provenance import machine_info, weights_hash
from ..errors import UsageError
from ..recipes.config import config_to_dict
from ..recipes.fields import GIVEN, PolicyFields, RunConfig
from ..recipes.inputs import data_files, identified, input_digests
from ..recipes.model_checks import pinned
from ..recipes.public_tasks import needs_solutions, public_task
from .text_objects import encoded_text_task
from .user_objects import load_given

__all__ = ["check_fit", "check_sharing", "load_policy_and_task", "load_teacher", "loaded_dtype", "run_identity"]

_SHOWN = 60  # characters of a prompt in a message


def load_policy_and_task(
    config: RunConfig, device: torch.device, experiment: Path | None = None
) -> tuple[Policy, Task]:
    """The base that the recipe names, and the task in its tokenizer; UsageError where they cannot be loaded.

    Objects that were passed to `analysis.run` are in the folder `experiment`.
    """
    fields = config.policy
    dtype = loaded_dtype(config)
    if fields.base == GIVEN:
        policy: Policy = _given(experiment, "policy")
        policy.model = policy.model.to(device, dtype).eval()
    else:
        try:
            policy = load_policy(
                fields.base, seed=fields.seed, revision=fields.revision, lora=_lora(fields), dtype=dtype, device=device
            )
        except ValueError as error:  # a folder without a checkpoint
            raise UsageError(f"policy.base = {fields.base!r}: {str(error).removeprefix('base: ')}") from error
    try:
        if fields.end_tokens is not None:
            add_end_tokens(policy, fields.end_tokens)
        return policy, _task(config, policy, experiment)
    except ValueError as error:  # files that cannot be read, or a policy that does not fit the task
        raise UsageError(f"task.name = {config.task.name!r} with policy.base = {fields.base!r}: {error}") from error


def loaded_dtype(config: RunConfig) -> torch.dtype:
    """The dtype that models are loaded and checked in: that of the policy, or float32 where it is rounded later."""
    return torch.promote_types(getattr(torch, config.policy.dtype), torch.float32)


def _lora(fields: PolicyFields) -> LoraSettings | None:
    if fields.lora_r is None:
        return None
    return LoraSettings(fields.lora_r, fields.lora_alpha, fields.lora_targets)


def load_teacher(
    config: RunConfig, policy: Policy, device: torch.device, prompts: Sequence[Prompt], longest: int
) -> torch.nn.Module | None:
    """The model that objective.teacher names, which is not trained; None where there is none.

    Raises UsageError where it cannot be loaded, its vocabulary is another than the policy's, or its numbers for a row
    depend on the rest of a batch of these prompts, with responses of up to `longest` tokens.
    """
    name = config.objective.teacher
    if name is None:
        return None
    dtype = loaded_dtype(config)
    try:
        teacher = load_policy(
            name, seed=config.policy.seed, revision=config.objective.teacher_revision, dtype=dtype, device=device
        )
    except ValueError as error:
        raise UsageError(f"objective.teacher = {name!r}: {str(error).removeprefix('base: ')}") from error
    if teacher.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise UsageError(
            f"objective.teacher = {name!r}: expected the vocabulary of policy.base = {config.policy.base!r}, got "
            "another; a teacher scores the tokens of the policy, so choose one with the same tokenizer"
        )
    if name not in BASES:
        check_batching(teacher, prompts, longest, "objective.teacher")
        if config.update.shared_prompts:
            check_sharing(teacher, prompts, longest, "objective.teacher")
    return teacher.model.requires_grad_(False)


def _task(config: RunConfig, policy: Policy, experiment: Path | None) -> Task:
    fields = config.task
    if fields.name == GIVEN:
        given = _given(experiment, "task")
        task: Task = encoded_text_task(config, given, policy) if is_text_task(given) else given
        return task
    if fields.name == FILE_TASK:
        assert config.rollout.max_new_tokens is not None
        return FileTask(
            policy.tokenizer,
            data_files(fields),
            _verifier(config),
            config.rollout.max_new_tokens,
            fields.chat_template,
            end_ids=policy_end_tokens(policy),
            bos=fields.bos,
            threshold=fields.threshold,
            errors=fields.verifier_errors,
        )
    if fields.name in PUBLIC_TASKS:
        return _listed(config, encoded_text_task(config, public_task(config, lambda: _verifier(config)), policy))
    return get_task(fields.name, policy.tokenizer, policy_end_tokens(policy))


def _listed(config: RunConfig, task: EncodedTask) -> Task:
    """The task; UsageError where the run needs its correct responses and the tokenizer has too many ways to write one.

    That the task lists its correct responses as texts is known before (`check_public_task`).
    """
    first = task.prompts("test")[0]
    if (field := needs_solutions(config)) is not None and task.solutions(first.ids) is None:
        raise UsageError(
            f"{field[0]} with task.name = {config.task.name!r}: expected a tokenizer for which the token sequences of "
            f"a text can be listed, got one for which they cannot ({task.identity['solutions']}); {field[1]}"
        )
    return task


def _verifier(config: RunConfig) -> Verifier:
    """The verifier of files. The processor is its own while it judges: as many processes as the run has threads."""
    fields = config.task
    return get_verifier(
        fields.verifier, workers=config.threads, seconds=fields.verifier_seconds, errors=fields.verifier_errors
    )


def _given(experiment: Path | None, kind: str) -> Any:
    if experiment is None:
        raise UsageError(
            f"{kind}: expected the folder of the experiment that holds the {kind} object, got none; name it"
        )
    return load_given(experiment, kind)


def check_fit(model: Any, task: Task, prompts: Sequence[Prompt], max_new_tokens: int) -> None:
    """UsageError for a prompt whose tokens the model does not have, or that leaves no room for the longest response.

    The last token of a response is never read, so prompt and response may be one longer than the model's positions.
    """
    room = getattr(model.config, "max_position_embeddings", None)
    rows = model.get_input_embeddings().num_embeddings
    for prompt in prompts:
        shown = prompt.text if len(prompt.text) <= _SHOWN else prompt.text[:_SHOWN] + " …"
        if not prompt.ids or max(prompt.ids) >= rows or min(prompt.ids) < 0:
            raise UsageError(
                f"task {task.name}: expected prompts of one token or more, each from 0 to {rows - 1} as the model "
                f"has them, got {shown!r} with the tokens {list(prompt.ids)[:8]}; make prompts with the policy's "
                "tokenizer"
            )
        if room is not None and len(prompt.ids) + max_new_tokens - 1 > room:
            raise UsageError(
                f"task {task.name}: expected prompt and response to fit into the model's {room} positions, got the "
                f"{prompt.split} prompt {shown!r} of {len(prompt.ids)} tokens and responses of up to "
                f"{max_new_tokens}; leave the prompt out, or lower rollout.max_new_tokens"
            )


def check_sharing(policy: Policy, prompts: Sequence[Prompt], max_new_tokens: int, field: str) -> None:
    """UsageError for a model, named by `field`, that cannot share what responses have in common.

    The longest prompt, with responses of the greatest length, goes through the model both ways.
    """
    longest = max(prompts, key=lambda prompt: len(prompt.ids))
    rows = policy.model.get_input_embeddings().num_embeddings
    response = [i % rows for i in range(max_new_tokens)]
    with evaluation_mode(policy.model):
        reason = sharing_fails(policy.model, longest.ids, response, policy.pad_id)
    if reason is not None:
        raise UsageError(
            f"{field}: expected a model for update.shared_prompts, got {type(policy.model).__name__}: {reason}; set "
            "update.shared_prompts = false"
        )


def run_identity(
    config: RunConfig,
    model: torch.nn.Module,
    task: Task,
    run_id: str,
    label: str,
    teacher: torch.nn.Module | None = None,
) -> dict[str, Any]:
    """The fields of run.json that a run starts with; `model` is the base, untouched."""
    verifier = getattr(task, "verifier", None)
    made_with = machine_info()
    config = pinned(config)
    resolved = config_to_dict(config)
    taught = {} if teacher is None else {"teacher_sha256": weights_hash(teacher)}
    canonical = json.dumps({"run_id": run_id, "config": identified(config)} | taught, sort_keys=True)
    return taught | {
        "run_id": run_id,
        "label": label,
        "engine": "small",
        "recipe": resolved,
        "hash": hashlib.sha256(canonical.encode()).hexdigest(),
        "seed": config.seed,
        "temperature": config.rollout.temperature,
        "task": task.name,
        "inputs": input_digests(config),
        "verifier": getattr(verifier, "identity", None),
        **({"texts": task.identity} if isinstance(task, EncodedTask) else {}),
        "base_sha256": weights_hash(model),
        "versions": made_with["versions"],
        "git_commit": made_with["commit"],
        "machine": made_with["machine"],
        "threads": torch.get_num_threads(),
        "device": str(next(model.parameters()).device),
        "dtype": config.policy.dtype,
        "record": resolved["record"],
    }
