"""The fields of a recipe: each factor of a run with its type, default, range and meaning.

A recipe is TOML with the tables `[policy] [task] [objective] [optimizer] [rollout] [update] [eval] [record]` and a few
fields above them; `[grid]` turns it into several runs. The dataclasses below are the whole list of fields: the reader
(`recipe.py`), `--help` and `docs/recipes.md` are driven by them. "Unset" is None; in TOML leave the field out, or
write "unset" to undo a value that a recipe sets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from toy_models.bases.recipes import BASES
from toy_models.tasks.file_task import FILE_TASK
from toy_models.tasks.registry import TASKS

from ..objectives.aggregation import ADVANTAGE_ALIASES, NORMALIZER_ALIASES, NORMALIZERS
from ..objectives.entries import ENTRIES
from ..objectives.parameters import ADVANTAGES, FORMS, PARAMETERS

__all__ = [
    "GIVEN",
    "CriticFields",
    "EvalFields",
    "ObjectiveFields",
    "OptimizerFields",
    "PolicyFields",
    "RecordFields",
    "RolloutFields",
    "RunConfig",
    "TaskFields",
    "UpdateFields",
    "objective_settings",
]

GIVEN = "given"  # name of a task or base that was handed over as an object


def _f(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[Any, ...] | None = None,
    key: str | None = None,
    aliases: dict[str, str] | None = None,
) -> Any:
    """A field with its meaning; `low` and `high` are inclusive bounds, `above` and `below` exclusive ones; `aliases`
    are other names of choices."""
    meta = {
        "doc": doc,
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "choices": choices,
        "key": key,
        "aliases": aliases,
    }
    return field(default=default, metadata={k: v for k, v in meta.items() if v is not None})


def _of_parameter(name: str) -> Any:
    """A parameter of some objectives as a field; unset is the objective's default."""
    one = PARAMETERS[name]
    owners = ", ".join(entry.name for entry in ENTRIES.values() if name in entry.defaults and entry.rule != "dpo")
    limits = (("low", one.low), ("high", one.high), ("above", one.above))
    bounds: dict[str, Any] = {key: value for key, value in limits if math.isfinite(value)}
    return _f(None, f"of {owners}: {one.doc}", choices=one.choices or None, **bounds)


@dataclass(frozen=True)
class PolicyFields:
    base: str = _f(
        "path",
        f"a built-in base ({', '.join(BASES)}; docs/bases.md says what they know) or a folder with "
        "a Hugging Face causal LM and its tokenizer",
    )
    seed: int = _f(0, "seed of the built-in base's weights and pretraining, apart from the run's seed", low=0)
    dtype: str = _f("float32", "dtype of parameters and updates", choices=("float32", "float64"))
    digest: str | None = _f(None, "identity of the policy handed to `analysis.run(…, policy=…)`, which writes it")


@dataclass(frozen=True)
class TaskFields:
    name: str = _f("path", "the task: its prompts and verifier", choices=(*TASKS, FILE_TASK, GIVEN))
    train_prompts: int = _f(1024, "how many training prompts the run may draw from", low=1)
    false_positive: float = _f(0.0, "verifier noise: probability that a wrong response is rewarded", low=0, high=1)
    false_negative: float = _f(0.0, "verifier noise: probability that a correct response is not", low=0, high=1)
    train_file: str | None = _f(None, "of the task file: JSON Lines or Parquet with prompts and answers")
    validation_file: str | None = _f(None, "likewise; unset: a tenth of the training file, by the prompts' hash")
    test_file: str | None = _f(None, "likewise; unset: another tenth of the training file")
    prompt_column: str = _f("prompt", "column of the prompts; a.b for the entry b of objects in column a")
    answer_column: str = _f("answer", "column of the answers")
    chat_template: bool = _f(False, "put prompts into the tokenizer's chat template; else nothing is added to them")
    verifier: str = _f(
        "exact",
        "exact (the response is the answer, white space around it apart), math (math-verify), "
        "file.py:function or package.module:function",
    )
    digest: str | None = _f(None, "identity of the task handed to `analysis.run(…, task=…)`, which writes it")


@dataclass(frozen=True)
class ObjectiveFields:
    name: str = _f(
        "reinforce-ratio",
        "which objective: docs/objectives.md lists them; a loss of one's own is "
        "file.py:function or package.module:function",
    )
    form: str | None = _f(
        None,
        "of psr, nsr, w-reinforce and reinforce, which have no default, and some others: ratio "
        "A·π/π_old (the released code), probability A·π (the paper's Eq. 6), log A·log π",
        choices=FORMS,
    )
    lambda_: float | None = _f(None, "weight of correct samples in w-reinforce (0.1 in the paper)", low=0, key="lambda")
    clip_low: float | None = _f(
        None, "clip where A < 0 and π/π_old < 1 − clip_low; unset: no clipping below", low=0, high=1
    )
    clip_high: float | None = _f(None, "clip where A > 0 and π/π_old > 1 + clip_high; unset: no clipping above", low=0)
    dual_clip: float | None = _f(None, "clip where A < 0 and π/π_old > dual_clip; unset: none", above=1)
    advantage: str | None = _f(
        None,
        "normalisation of rewards within the group or batch, or less a constant; unset: "
        "the objective's own, none for psr, nsr, w-reinforce and reinforce",
        choices=ADVANTAGES,
        aliases=ADVANTAGE_ALIASES,
    )
    baseline: float | None = _f(None, "the constant of advantage = constant, and V of asymre")
    tau_pos: float | None = _of_parameter("tau_pos")
    tau_neg: float | None = _of_parameter("tau_neg")
    share: float | None = _of_parameter("share")
    cov_low: float | None = _of_parameter("cov_low")
    cov_high: float | None = _of_parameter("cov_high")
    kappa: float | None = _of_parameter("kappa")
    ratio_floor: float | None = _of_parameter("ratio_floor")
    epsilon: float | None = _of_parameter("epsilon")
    prompt_weight: str | None = _of_parameter("prompt_weight")
    positive_weight: float | None = _of_parameter("positive_weight")
    negative_weight: float | None = _of_parameter("negative_weight")
    rank_penalty: float | None = _of_parameter("rank_penalty")
    floor: float | None = _of_parameter("floor")
    beta: float | None = _of_parameter("beta")
    clamp: float | None = _of_parameter("clamp")
    kl_coef: float = _f(0.0, "coefficient β of KL to the reference (the base)", low=0)
    kl_estimator: str = _f(
        "k3",
        "sampled estimators k1, k2, k3, or the full sum over the vocabulary (loss only)",
        choices=("k1", "k2", "k3", "full"),
    )
    kl_placement: str = _f(
        "loss",
        "loss: β·KL per token in the loss; reward: −β·KL at collection as a reward, of each "
        "token with a critic, without one summed into the response's advantage",
        choices=("loss", "reward"),
    )
    entropy_coef: float = _f(0.0, "coefficient of the entropy bonus", low=0)


def objective_settings(fields: ObjectiveFields) -> dict[str, Any]:
    """The parameters of the objective, as `objectives.get` and `objectives.check` take them."""
    return {name: getattr(fields, name) for name in PARAMETERS if hasattr(fields, name)}


@dataclass(frozen=True)
class CriticFields:
    enabled: bool = _f(
        False, "learn a baseline: a value head on the policy's hidden states; with reinforce and clipping this is PPO"
    )
    lr: float = _f(1e-3, "learning rate of the value head's own AdamW", above=0)
    gae_lambda: float = _f(1.0, "λ of generalised advantage estimation, γ = 1", low=0, high=1)
    whiten: bool = _f(False, "standardise the advantages over the response tokens of the rollout batch")
    clip: float | None = _f(
        None, "keep the value within this of its old one while that makes the loss larger; unset: not clipped", above=0
    )


@dataclass(frozen=True)
class OptimizerFields:
    name: str = _f("adamw", "optimiser", choices=("adamw", "sgd"))
    lr: float = _f(1.5e-4, "learning rate", above=0)
    momentum: float = _f(0.0, "momentum of sgd", low=0, below=1)
    betas: tuple[float, float] = _f((0.9, 0.999), "averaging coefficients of adamw", low=0, below=1)
    eps: float = _f(1e-8, "ε of adamw", low=0)
    weight_decay: float = _f(0.0, "decoupled for adamw, L2 for sgd", low=0)
    schedule: str = _f("constant", "learning rate over the run, in steps", choices=("constant", "linear", "cosine"))
    warmup_steps: int = _f(0, "steps of linear warm-up", low=0)
    max_grad_norm: float | None = _f(None, "global gradient norm is clipped to this; unset: not clipped", above=0)


@dataclass(frozen=True)
class RolloutFields:
    prompts: int = _f(128, "prompts per step", low=1)
    group_size: int = _f(8, "responses per prompt", low=1)
    temperature: float = _f(1.0, "sampling temperature; training differentiates the law at the same one", above=0)
    top_k: int = _f(
        0,
        "draw from the k most probable tokens only, ties to the lower id; 0: from all. Updates still "
        "differentiate the policy's whole law",
        low=0,
    )
    top_p: float = _f(
        1.0,
        "nucleus: draw from the fewest most probable tokens (of the top_k) that hold this share of "
        "their mass; 1: from all. Updates still differentiate the policy's whole law",
        above=0,
        high=1,
    )
    max_new_tokens: int | None = _f(None, "longest response; unset: the task's own", low=1)
    dtype: str | None = _f(
        None,
        "dtype of the copy of the policy that samples; unset: the policy's. Old log-probs and "
        "statistics are the policy's own in any case",
        choices=("bfloat16", "float32"),
    )


@dataclass(frozen=True)
class UpdateFields:
    epochs: int = _f(1, "passes over the rollout batch", low=1)
    minibatches: int | None = _f(None, "optimiser updates per pass; unset with minibatch_size unset: 1", low=1)
    minibatch_size: int | None = _f(
        None,
        "rows per update instead: with dropped rows the number of updates then "
        "follows how many are left (as in the released code)",
        low=1,
    )
    rows: str = _f(
        "keep",
        "rows without a weight (of the other sign): keep them in the batch or drop them",
        choices=("keep", "drop"),
    )
    drop: str = _f(
        "before", "drop rows before the batch is cut into minibatches, or from each after", choices=("before", "after")
    )
    empty: str = _f(
        "skip",
        "a minibatch without rows: skip it, the optimiser untouched, or step with a zero gradient",
        choices=("skip", "step"),
    )
    normalizer: str = _f(
        "batch_tokens",
        "what the summed loss is divided by: tokens of the minibatch's rows, tokens "
        "of rows with a weight, per-row length and number of rows, or a constant",
        choices=NORMALIZERS,
        aliases=NORMALIZER_ALIASES,
    )
    constant: float | None = _f(None, "the constant of normalizer = constant", above=0)
    micro_batch: int | None = _f(
        None,
        "rows per forward and backward pass, whose gradients add up; unset: all rows of "
        "a sign at once. Bounds memory, changes rounding only",
        low=1,
    )
    autocast: str | None = _f(
        None,
        "dtype of the matrix products of an update's passes (mixed precision); unset: the policy's",
        choices=("bfloat16",),
    )
    estimator: str = _f(
        "sampled",
        "sampled: from the rollouts; exact: the expected gradient by enumeration",
        choices=("sampled", "exact"),
    )


@dataclass(frozen=True)
class EvalFields:
    every: int = _f(8, "steps between evaluations; the base and the end are always evaluated", low=1)
    prompts: int = _f(64, "validation prompts at every evaluation, and test prompts at those during training", low=1)
    final_prompts: int = _f(128, "test prompts at the start and at the end", low=1)
    temperatures: tuple[float, ...] = _f((1.0, 0.6), "temperatures, all from one forward pass", above=0)
    top_k: int = _f(
        0,
        "evaluate the law of the k most probable tokens at every temperature, exactly and by samples; 0: of all",
        low=0,
    )
    top_p: float = _f(1.0, "nucleus of the evaluated law, after top_k, likewise; 1: none", above=0, high=1)
    samples: int = _f(4, "own responses per prompt at the first temperature (own entropy, estimated Pass@k)", low=0)


@dataclass(frozen=True)
class RecordFields:
    tokens: float = _f(0.125, "share of prompt groups whose tokens are recorded; 0 for none", low=0, high=1)
    columns: str = _f(
        "full", "full: every column; core: without ranks, buckets and top tokens", choices=("full", "core")
    )
    top_k: int = _f(8, "most probable tokens recorded", low=0)
    dtype: str = _f(
        "float32", "least precise dtype in which token statistics are computed", choices=("float32", "float64")
    )
    contexts: int = _f(64, "contexts followed through updates, half of them the fixed panel; 0 for none", low=0)
    contexts_every: int = _f(2, "updates between those with contexts of their own; the panel follows all", low=1)
    jvp_every: int = _f(4, "of those updates, every so many also get the JVP of the step; 0 for none", low=0)
    shares_every: int = _f(
        2,
        "of the updates with a JVP, every so many also get it by source: momentum history, each "
        "reward sign, regularisers, weight decay; 0 for none",
        low=0,
    )
    rollouts: float = _f(1.0, "share of prompt groups whose rollouts are recorded", low=0, high=1)
    noise_every: int = _f(
        0, "steps between measurements of gradient noise; the base and the end get one too; 0 for none at all", low=0
    )
    noise_prompts: int = _f(16, "validation prompts of such a measurement", low=1)
    noise_replicates: int = _f(8, "independent batches of rollout.group_size responses to each of them", low=3)
    chunk: int = _f(10, "steps between commits: what an interruption can cost", low=1)
    checkpoint: bool = _f(True, "save the final policy as a Hugging Face folder")


@dataclass(frozen=True)
class RunConfig:
    """One run: one method and one seed, every factor resolved."""

    steps: int = _f(40, "rollout batches", low=0)
    seed: int = _f(0, "seed of rollouts, shuffling, noise, evaluation and recording", low=0)
    threads: int = _f(1, "intra-op threads of the run's own process", low=1)
    device: str = _f("auto", "auto (CUDA when there is one), cpu, cuda or cuda:N")
    policy: PolicyFields = field(default_factory=PolicyFields)
    task: TaskFields = field(default_factory=TaskFields)
    objective: ObjectiveFields = field(default_factory=ObjectiveFields)
    critic: CriticFields = field(default_factory=CriticFields)
    optimizer: OptimizerFields = field(default_factory=OptimizerFields)
    rollout: RolloutFields = field(default_factory=RolloutFields)
    update: UpdateFields = field(default_factory=UpdateFields)
    eval: EvalFields = field(default_factory=EvalFields)
    record: RecordFields = field(default_factory=RecordFields)
