"""How much memory and disk a run needs, from its recipe and the sizes of its model: an estimate of each part.

Everything is counted in the largest case that the recipe allows: the longest prompt and the longest response, and all
rows of a minibatch where nothing bounds a pass. Counted are, for W weights of which W_t are trained, in bytes of their
dtype unless said:

    weights         W, and another W_t for a reference or a policy that lags; W for a sampling copy in its own dtype
    optimiser       2 W_t for AdamW, W_t for SGD with momentum, in float32 at least
    gradients       W_t for each list that is alive at once: those of both signs, of the regularisers, their sum, the
                    clipped sum, and the one that a backward pass makes
    step            W_t for the parameters before it; where contexts are followed with a JVP as much again for the step;
                    with shares for each sign's moment, and ten times for the step, its four parts, and these again in
                    one pass of the derivative
    layers          what a layer keeps for the backward pass (`layer_floats`) for all tokens of a pass; with gradient
                    checkpointing d numbers a layer and all of one layer
    logits          V numbers a response token: four times in a pass, once for all passes of the update (statistics);
                    where they are streamed those of 2²⁵ numbers at a time, and d numbers a token for all passes
    cache           2·kv numbers a token and layer for all tokens that are sampled at a time
    program         the libraries

The peak is what is always there and the largest of the phases: loading, sampling, passes, the optimiser's step and
contexts.
"""

from __future__ import annotations

from dataclasses import dataclass

from .fields import RunConfig
from .model_shape import ModelShape, adapter_weights

__all__ = ["AT_ONCE", "MemoryEstimate", "estimated_memory", "layer_floats", "pass_tokens", "size_text"]

_BYTES = {"bfloat16": 2, "float32": 4, "float64": 8}
_PROGRAM = (
    600 << 20
)  # torch, transformers, pyarrow and pandas in one process on a CPU; CUDA's context is about as large
_LOGITS_IN_A_PASS = 4  # logits, their exponentials, and their gradient by way of log π_y and of its normaliser
_LOGITS_OF_A_CONTEXT = 8  # float64: logits and log-probs before and after, probabilities, the derivative
AT_ONCE = 1 << 25  # logits of a pass that exist at a time where they are streamed (`training.token_logits`)
_SAMPLED_LOGITS = 1 << 27  # float64 copies of the logits that are sampled from at a time (`toy_models.sampling`)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a run needs.

    Attributes:
        peak: of memory: what is always there and the largest phase.
        parts: what is always there by name: weights, copies of them, optimiser, moments by sign, program.
        phases: what each phase needs besides: loading, sampling, update, step, contexts.
        state: of the state to resume from on disk; twice that while a new one is written.
        checkpoint: of the final policy on disk.
    """

    peak: int
    parts: dict[str, int]
    phases: dict[str, int]
    state: int
    checkpoint: int

    def text(self) -> str:
        """In one line, the largest parts first."""
        phase = max(self.phases, key=lambda name: self.phases[name])
        named = self.parts | {f"{phase} (largest phase)": self.phases[phase]}
        largest = sorted(named, key=lambda name: -named[name])
        return f"about {size_text(self.peak)}: " + ", ".join(
            f"{name} {size_text(named[name])}" for name in largest if named[name] > self.peak // 100
        )


def size_text(size: int) -> str:
    """A number of bytes in its largest unit.

    >>> size_text(1_640_000_000), size_text(53_100_000)
    ('1.6 GB', '53 MB')
    """
    count, unit = (size / 1e9, "GB") if size >= 1e9 else (size / 1e6, "MB")
    return f"{count:.1f} {unit}" if count < 10 else f"{count:,.0f} {unit}"


def layer_floats(shape: ModelShape, *, padded: bool) -> int:
    """Numbers that a layer keeps for the backward pass of each token, in the attention kernels of torch.

    Counted from the tensors that autograd saves, with every kind of model here (`tests/recipes/test_memory.py`).
    `padded`: with an attention mask keys and values are repeated for the query heads that share them.
    """
    keys = shape.query if padded else shape.key_value
    if not shape.gated:
        return 8 * shape.width + 5 * shape.feed_forward + shape.heads
    head_norms = 2 * shape.query + 2 * shape.key_value if shape.head_norms else 0
    return 6 * shape.width + 2 * shape.query + 2 * keys + head_norms + 4 * shape.feed_forward + shape.heads


def pass_tokens(config: RunConfig, prompt: int, response: int) -> tuple[int, int]:
    """Tokens in the largest pass with gradients: all of them, and those of responses.

    Args:
        config: a run's configuration.
        prompt: tokens of the longest prompt.
        response: tokens of the longest response.
    """
    update = config.update
    rows = _minibatch_rows(config)
    group = config.rollout.group_size if update.shared_prompts else 1
    if update.micro_batch is not None:
        rows = min(rows, update.micro_batch)
    elif update.micro_batch_tokens is not None:
        rows = min(rows, max(1, int(update.micro_batch_tokens / (prompt / group + response))))
    return int(rows * response + -(-rows // group) * prompt), rows * response


def estimated_memory(config: RunConfig, shape: ModelShape, prompt: int, response: int) -> MemoryEstimate:
    """The bytes that a run needs, by part.

    Args:
        config: a run's configuration.
        shape: sizes of its model.
        prompt: tokens of the longest prompt.
        response: tokens of the longest response.
    """
    weight = _BYTES[config.policy.dtype]
    wide = max(weight, 4)
    policy = config.policy
    adapter = 0 if policy.lora_r is None else adapter_weights(shape, policy.lora_r, policy.lora_targets)
    trained = adapter or shape.parameters
    record, contexts = config.record, config.record.contexts > 0
    derived, split = contexts and record.jvp_every > 0, _split(config)
    parts = {
        "weights": (shape.parameters + adapter) * weight,
        "copies of the weights": _copies(config, shape, trained),
        "optimiser": trained * wide * _moments(config) + (trained * 4 if weight < 4 else 0),
        "moments by sign": 2 * trained * wide if split else 0,
        "program": _PROGRAM,
    }
    tokens, responses = pass_tokens(config, prompt, response)
    numbers = responses * shape.vocabulary
    streamed = config.update.logits == "streamed" or (config.update.logits == "auto" and numbers > AT_ONCE)
    streamed = streamed and not config.critic.enabled  # a critic keeps what the head reads, with dense logits
    kept = _minibatch_rows(config) * response * (shape.width if streamed else shape.vocabulary) * wide
    logits = (min(numbers, AT_ONCE) if streamed else numbers) * wide * _LOGITS_IN_A_PASS
    one_pass = tokens * _kept_by_layers(config, shape, weight) + logits
    statistics = logits if record.tokens > 0 else 0
    lists = _gradient_lists(config)
    phases = {
        "sampling": _sampling(config, shape, prompt, response, weight),
        "update": kept + trained * wide * lists[0] + max(one_pass, statistics),
        "step": kept + trained * wide * lists[1],
        "contexts": 0,
        # Models are loaded and checked in float32 at least, before an optimiser is made.
        "loading": max(0, _PROGRAM + (shape.parameters + adapter + trained) * wide - sum(parts.values())),
    }
    if contexts:
        moved = (10 if split else 1) if derived else 0
        phases["contexts"] = record.contexts * shape.vocabulary * 8 * _LOGITS_OF_A_CONTEXT + moved * trained * weight
        phases["contexts"] += kept + trained * wide * lists[0]
    state = trained * weight + parts["optimiser"] + parts["moments by sign"]
    return MemoryEstimate(
        sum(parts.values()) + max(phases.values()),
        parts,
        phases,
        0 if record.state_every == 0 else state,
        trained * weight if record.checkpoint else 0,
    )


def _minibatch_rows(config: RunConfig) -> int:
    rows = config.rollout.prompts * config.rollout.group_size
    return min(rows, config.update.minibatch_size or -(-rows // (config.update.minibatches or 1)))


def _moments(config: RunConfig) -> int:
    return 2 if config.optimizer.name == "adamw" else int(config.optimizer.momentum > 0)


def _split(config: RunConfig) -> bool:
    """Whether the optimiser's moment is kept apart by reward sign."""
    record = config.record
    return record.contexts > 0 and record.jvp_every > 0 and record.shares_every > 0


def _copies(config: RunConfig, shape: ModelShape, trained: int) -> int:
    """Other models in memory, and the parameters before a step."""
    weight, rollout = _BYTES[config.policy.dtype], config.rollout
    whole = int(config.objective.kl_coef > 0) + int(rollout.refresh_every != 1 or rollout.fixed)
    sampler = _BYTES[rollout.dtype] if rollout.dtype not in (None, config.policy.dtype) else 0
    teacher = int(config.objective.teacher is not None)
    # Copies of a model with an adapter share the frozen weights, unless they are in another dtype.
    return trained * weight * (whole + 1) + shape.parameters * (weight * teacher + sampler)


def _gradient_lists(config: RunConfig) -> tuple[int, int]:
    """Lists of gradients that are alive in the last pass of an update, and at the optimiser's step."""
    apart = config.record.signs_every > 0
    sums = (2 if apart else 1) + int(config.objective.entropy_coef > 0 or config.objective.kl_coef > 0)
    sums += int(config.update.mask_norm == "full")
    clipped = int(config.optimizer.max_grad_norm is not None)
    total = int(sums > 1)
    in_parts = config.update.micro_batch is not None or config.update.micro_batch_tokens is not None
    return sums + int(in_parts), sums + total + clipped


def _kept_by_layers(config: RunConfig, shape: ModelShape, weight: int) -> int:
    """Bytes that the layers keep for the backward pass of each token."""
    floats = layer_floats(shape, padded=True)
    # Norms compute in float32: with bfloat16 weights two of their numbers are twice as wide.
    one = floats * weight + (2 * shape.width * 2 if weight == 2 else 0)
    if config.update.gradient_checkpointing:
        return shape.layers * shape.width * weight + one
    return shape.layers * one


def _sampling(config: RunConfig, shape: ModelShape, prompt: int, response: int, weight: int) -> int:
    """Bytes of the cache and the logits of what is sampled at a time, in rollouts or evaluations."""
    rollout, evaluation = config.rollout, config.eval
    rows = max(
        rollout.prompts * rollout.group_size,
        max(evaluation.prompts + evaluation.final_prompts, 1) * max(evaluation.samples, 1),
    )
    if rollout.batch_tokens is not None:
        rows = min(rows, max(1, rollout.batch_tokens // (prompt + response)))
    if rollout.dtype is not None:
        weight = _BYTES[rollout.dtype]
    cache = rows * (prompt + response) * shape.layers * 2 * shape.key_value * weight
    return cache + rows * shape.vocabulary * (weight + 4) + _SAMPLED_LOGITS
