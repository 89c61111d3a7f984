"""What a run of a model that is not built in costs: memory, disk and time, before anything is loaded.

Estimates are made of the sizes of the model (`model_shape`), the recipe and the length of the prompts, which are
counted where the task is a file and the tokenizer lies beside the model, or its text is known without one (a token for
each character at most). Memory is that of the longest prompt with the
longest response. Time is a count of operations over the rate of the device (`devices`), with responses as long as they
may be:

    forward pass of a token   2·(weights of the layers) + 2·layers·q·T     T tokens in its row
    output head               2·V·d for each token of a response
    update                    three forward passes, four with gradient checkpointing, one for each pass beside it
    sampling                  one forward pass a token; at least reading all weights, and starting all kernels, once for
                              each of the R positions

Estimates of memory were compared with measured peaks on a CPU, and are right within a third; those of time within a
factor of three on a CPU. On a GPU neither was measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from toy_models.bases.recipes import BASES
from toy_models.tasks.file_task import FILE_TASK
from toy_models.tasks.registry import TEXT_TASKS, text_task_lengths

from .devices import Device, device_of
from .fields import GIVEN, RunConfig
from .inputs import data_files
from .memory import MemoryEstimate, estimated_memory, size_text
from .model_checks import local_model
from .model_shape import ModelShape, adapter_weights, model_shape

__all__ = ["RunEstimate", "estimate_run", "step_seconds"]

_ASSUMED_PROMPT, _ASSUMED_RESPONSE = 256, 256
_COUNTED = 64  # the longest prompts by characters that are tokenised
_PER_PARAMETER = 60  # bytes read and written of each trained weight by an update: moments, gradients, norms, copies


@dataclass(frozen=True)
class RunEstimate:
    """What one run is estimated to need.

    Attributes:
        memory: by part.
        seconds: of the whole run on the device of the recipe; None where that is not known.
        device: name of that device; None likewise.
        prompt, response: tokens of the longest prompt and response that the estimate is for.
        assumed: which of these are assumed and not counted, in words; empty where both are known.
    """

    memory: MemoryEstimate
    seconds: float | None
    device: str | None
    prompt: int
    response: int
    assumed: str

    @property
    def disk(self) -> int:
        """Bytes of the run's folder at most, records aside: two resume states while one is written, or the policy."""
        return max(2 * self.memory.state, self.memory.state + self.memory.checkpoint)

    def to_dict(self) -> dict[str, object]:
        """Plain data, in bytes and seconds."""
        memory = self.memory
        return {
            "memory_bytes": memory.peak,
            "memory_parts": memory.parts,
            "memory_phases": memory.phases,
            "disk_bytes": self.disk,
            "resume_state_bytes": memory.state,
            "checkpoint_bytes": memory.checkpoint,
            "seconds": self.seconds,
            "device": self.device,
            "prompt_tokens": self.prompt,
            "response_tokens": self.response,
            "assumed": self.assumed,
        }

    def lines(self) -> list[str]:
        """Memory and disk, a line each."""
        note = f" ({self.assumed})" if self.assumed else ""
        tokens = f"prompts of up to {self.prompt} tokens and responses of up to {self.response}{note}"
        state = f"{size_text(self.memory.state)} to resume from, twice that while it is written"
        state = state if self.memory.state else "no state to resume from"
        policy = size_text(self.memory.checkpoint) if self.memory.checkpoint else "nothing"
        return [
            f"memory  {self.memory.text()}; for {tokens}",
            f"disk    {size_text(self.disk)} and the records: {state}; {policy} for the final policy",
        ]


def estimate_run(config: RunConfig) -> RunEstimate | None:
    """The estimate of a run; None for a built-in base, and for a model whose sizes cannot be told.

    Args:
        config: a run's configuration.
    """
    base = config.policy.base
    if base in BASES or base == GIVEN:
        return None
    path = local_model(config)
    shape = model_shape(path or base)
    if shape is None:
        return None
    counted = _counted_prompt(config, path)
    prompt = _ASSUMED_PROMPT if counted is None else counted
    longest = config.rollout.max_new_tokens
    if longest is None and config.task.name in TEXT_TASKS:
        longest = text_task_lengths(config.task.name)[1]
    response = longest or _ASSUMED_RESPONSE
    guesses = ["prompts" if counted is None else "", "responses" if longest is None else ""]
    assumed = " and ".join(filter(None, guesses))
    device = device_of(config.device)
    seconds = None
    if device is not None:
        seconds = step_seconds(config, shape, device, prompt, response) * config.steps
        seconds += _evaluation_seconds(config, shape, device, prompt, response)
    return RunEstimate(
        estimated_memory(config, shape, prompt, response),
        seconds,
        None if device is None else device.name,
        prompt,
        response,
        f"the length of {assumed} is assumed" if assumed else "",
    )


def step_seconds(config: RunConfig, shape: ModelShape, device: Device, prompt: int, response: int) -> float:
    """Seconds of one step: sampling, updates, contexts."""
    rollout, update, record = config.rollout, config.update, config.record
    rows, epochs = rollout.prompts * rollout.group_size, update.epochs
    prompts = rollout.prompts if update.shared_prompts else rows
    rate = _rate(config, device)
    forward = _forward_flops(shape, prompts * prompt + rows * response, rows * response, prompt + response)
    many = epochs > 1 or (update.minibatches or 1) > 1 or update.minibatch_size is not None
    more = [
        many and update.old_log_probs == "policy",
        config.objective.kl_coef > 0,
        config.objective.teacher is not None,
        update.token_mask is not None,
    ]
    passes = epochs * (4 if update.gradient_checkpointing else 3) + sum(more)
    updates = epochs * (update.minibatches or -(-rows // (update.minibatch_size or rows)))
    seconds = _sampling_seconds(config, shape, device, rollout.prompts, rows, prompt, response)
    trained = shape.parameters
    if config.policy.lora_r is not None:  # the gradient of frozen weights is not worked out
        trained = adapter_weights(shape, config.policy.lora_r, config.policy.lora_targets)
        passes -= epochs
    seconds += passes * forward / rate + updates * trained * _PER_PARAMETER / device.bytes_per_second
    if record.contexts:
        looked = record.contexts * (prompt + response)
        one = _forward_flops(shape, looked, record.contexts, prompt + response)
        derivative = 6 / (record.jvp_every * record.contexts_every) if record.jvp_every else 0.0
        seconds += updates * one * (1.5 + derivative) / rate
    return seconds


def _rate(config: RunConfig, device: Device) -> float:
    dtype = "bfloat16" if "bfloat16" in (config.policy.dtype, config.update.autocast) else config.policy.dtype
    rate = device.flops[dtype]
    return rate * config.threads if device.memory is None else rate


def _forward_flops(shape: ModelShape, tokens: int, responses: int, row: int) -> float:
    layers = tokens * (2.0 * shape.body + 2.0 * shape.layers * shape.query * row)
    return layers + responses * 2.0 * shape.vocabulary * shape.width


def _sampling_seconds(
    config: RunConfig, shape: ModelShape, device: Device, prompts: int, rows: int, prompt: int, response: int
) -> float:
    rate, budget = _rate(config, device), config.rollout.batch_tokens
    at_a_time = rows if budget is None else max(1, budget // (prompt + response))
    parts = -(-rows // at_a_time)
    prefill = _forward_flops(shape, prompts * prompt, prompts, prompt) / rate
    computed = _forward_flops(shape, min(rows, at_a_time), min(rows, at_a_time), prompt + response) / rate
    narrow = "bfloat16" in (config.policy.dtype, config.rollout.dtype)
    read = (2.0 if narrow else 4.0) * shape.parameters / device.bytes_per_second
    return prefill + parts * response * max(computed, read, shape.layers * device.launch_seconds)


def _evaluation_seconds(config: RunConfig, shape: ModelShape, device: Device, prompt: int, response: int) -> float:
    fields, rate = config.eval, _rate(config, device)
    between = max(0, config.steps - 1) // fields.every
    total = 0.0
    for times, test in ((between, fields.prompts), (2, max(fields.prompts, fields.final_prompts))):
        prompts = fields.prompts + test
        rows = prompts * (fields.samples + 1)
        fixed = _forward_flops(shape, prompts * (prompt + response), prompts * response, prompt + response) / rate
        total += times * (fixed + _sampling_seconds(config, shape, device, prompts, rows, prompt, response))
    return total


def _counted_prompt(config: RunConfig, model: Path | None) -> int | None:
    """Tokens of the longest prompt of a file; None where prompts are not in a file or the tokenizer is not there."""
    task = config.task
    if task.name in TEXT_TASKS:
        return text_task_lengths(task.name)[0]
    if task.name != FILE_TASK or model is None:
        return None
    count = _counter(model)
    if count is None:
        return None
    try:
        rows = data_files(task).read()
    except ValueError:  # said elsewhere
        return None
    texts = []
    for part in rows.values():
        for row in part:
            prompt = row.values[task.prompt_column]
            texts.append(prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False))
    longest = sorted(set(texts), key=len)[-_COUNTED:]
    return max(count(text) for text in longest) if longest else None


def _counter(folder: Path) -> Callable[[str], int] | None:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # a bare Exception of tokenizers
        return None
    return lambda text: len(tokenizer.encode(text).ids)
