"""Memory and time of the paper's runs by arithmetic: sizes of models, settings of recipes, peaks of data sheets.

Nothing of this is measured. Memory of a GPU while the actor is updated, for P weights on n GPUs, a micro batch of T
tokens, L layers of width d and V logits a token:

    states        16·P / n: float32 weights, gradients and two moments; of PPO's critic as much again
    layers        2·T·(L·d + what one layer keeps): bfloat16, gradient checkpointing
    logits        4·2·T·V: logits, their gradient, and two copies for the entropy

The reference lies in the memory of the machine. While the actor is updated vLLM sleeps. Time of a step, with forward
passes of 2·P operations a token and the rate of `analysis.recipes.devices`:

    sampling      a step of all running rollouts reads the weights and the keys and values of what they have so far
    passes        old log-probs 2, update 8 (with what checkpointing computes again); a reference 2, a critic 10
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.recipes.devices import GPUS, Device
from analysis.recipes.memory import layer_floats, size_text
from analysis.recipes.model_shape import ModelShape, model_shape

__all__ = ["MODELS", "RunSize", "hours", "hours_table", "memory_parts", "memory_table", "updates_table"]

PROMPT = 150  # tokens of a prompt of MATH with its template, on average; assumed
STEPS = 140
ROLLOUTS = 8192
MINIBATCH = 2048  # rows
_OF_PASSES = {"PSR, NSR, W-REINFORCE": 10, "GRPO": 12, "PPO": 22}  # multiples of P operations a token


@dataclass(frozen=True)
class RunSize:
    """A model with what its settings say.

    Attributes:
        name: in tables.
        path: on the Hub.
        micro_batch: tokens of a micro batch.
        response: tokens of a response for the estimate of time; assumed.
        running: rollouts that a GPU samples at a time.
    """

    name: str
    path: str
    micro_batch: int
    response: int
    running: int

    @property
    def shape(self) -> ModelShape:
        """The sizes of the model."""
        shape = model_shape(self.path)
        assert shape is not None
        return shape


MODELS = (
    RunSize("Qwen2.5-Math-7B", "Qwen/Qwen2.5-Math-7B", 16_384, 1500, 256),
    RunSize("Qwen3-4B", "Qwen/Qwen3-4B", 32_768, 3000, 128),
)


def memory_parts(size: RunSize, gpus: int, *, critic: bool) -> dict[str, float]:
    """Bytes of one GPU in an update, by part.

    Args:
        size: model and settings.
        gpus: that share parameters and optimiser.
        critic: whether a value model of the same size lies beside the policy.
    """
    shape, tokens = size.shape, size.micro_batch
    return {
        "states": 16 * shape.parameters / gpus * (2 if critic else 1),
        "layers": 2.0 * tokens * (shape.layers * shape.width + layer_floats(shape, padded=False)),
        "logits": 4 * 2.0 * tokens * shape.vocabulary,
    }


def memory_table() -> str:
    """The table of memory, in Markdown."""
    lines = ["| model | GPUs | states | with PPO's critic | layers | logits | a GPU in all, with a critic |"]
    lines += ["|---|--:|--:|--:|--:|--:|--:|"]
    for size in MODELS:
        for gpus in (8, 16):
            alone, both = (memory_parts(size, gpus, critic=critic) for critic in (False, True))
            cells = [size_text(int(value)) for value in (alone["states"], both["states"], *list(alone.values())[1:])]
            sums = [size_text(int(sum(parts.values()))) for parts in (alone, both)]
            lines.append(f"| {size.name} | {gpus} | {' | '.join(cells)} | {sums[0]}, {sums[1]} |")
    return "\n".join(lines)


def hours(size: RunSize, device: Device, gpus: int, method: str) -> dict[str, float]:
    """Hours of sampling and of passes in `STEPS` steps, by arithmetic.

    Args:
        size: model and lengths.
        device: the GPU.
        gpus: how many.
        method: a key of `_OF_PASSES`.
    """
    shape = size.shape
    tokens = ROLLOUTS * (PROMPT + size.response)
    passes = _OF_PASSES[method] * shape.parameters * tokens / (device.flops["bfloat16"] * gpus)
    held = PROMPT + size.response / 2  # tokens of a running rollout, on average
    cache = size.running * held * shape.layers * 2 * shape.key_value * 2
    read = 2 * shape.parameters + cache  # of a GPU for one token of each of its running rollouts
    sampled = ROLLOUTS * size.response / gpus / size.running * read / device.bytes_per_second
    return {"sampling": STEPS * sampled / 3600, "passes": STEPS * passes / 3600}


def hours_table() -> str:
    """The table of hours on eight GPUs, in Markdown."""
    devices = [device for device in GPUS if device.name in ("H200", "H100", "A100")]
    lines = [f"| model, method | {' | '.join(f'8 × {device.name}' for device in devices)} |"]
    lines += ["|---|" + "--:|" * len(devices)]
    for size in MODELS:
        for method in _OF_PASSES:
            cells = [f"{sum(hours(size, device, 8, method).values()):.0f} h" for device in devices]
            lines.append(f"| {size.name}, {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def updates_table() -> str:
    """Updates of a batch whose rows are dropped, by the share that is kept, and how full the last one is."""
    lines = ["| rows kept | updates | fraction of the last one that is filled |", "|--:|--:|--:|"]
    for percent in (10, 30, 50, 70, 90, 100):
        kept = ROLLOUTS * percent // 100
        updates = -(-kept // MINIBATCH)
        filled = (kept - (updates - 1) * MINIBATCH) / MINIBATCH
        lines.append(f"| {percent} of 100 | {updates} | {filled:.2f} |")
    return "\n".join(lines)
