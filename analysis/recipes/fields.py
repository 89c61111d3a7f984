"""The fields of a recipe: each factor of a run with its type, default, range and meaning.

A recipe is TOML with the tables `[policy] [task] [objective] [critic] [optimizer] [rollout] [update] [eval] [record]`
and a few fields above them; `[grid]` turns it into several runs. The dataclasses below are the whole list of fields:
the reader (`recipe.py`), the checks and `docs/recipes.md` are made from them. "Unset" is None; in TOML leave the field
out, or write "unset" to undo a value that a recipe sets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from toy_models.bases.recipes import BASES
from toy_models.tasks.file_task import FILE_TASK
from toy_models.tasks.registry import PUBLIC_TASKS, TASKS, TEXT_TASKS

from ..objectives.aggregation import ADVANTAGE_ALIASES, NORMALIZER_ALIASES, NORMALIZERS
from ..objectives.entries import PARAMETERS
from ..objectives.parameters import ADVANTAGES, FORMS
from .field_helpers import Table
from .field_helpers import described as _described
from .field_helpers import recipe_field as _f
from .field_helpers import with_parameters as _with_parameters

__all__ = [
    "GIVEN",
    "TOKEN_MASKS",
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
TOKEN_MASKS = ("probability", "entropy", "signed_change")  # what update.token_mask compares tokens by


@_described
@dataclass(frozen=True)
class PolicyFields:
    """The table [policy]: which model is trained."""

    base: str = _f(
        "path",
        f"a built-in base ({', '.join(BASES)}; see docs/bases.md), a folder with "
        "a Hugging Face causal LM and its tokenizer, a GGUF file, or the id of a model on the Hugging Face Hub: "
        "owner/name, or owner/name:file.gguf",
    )
    revision: str | None = _f(
        None,
        "branch, tag or commit of a model on the Hub; unset: main, as it is in the cache or else on the Hub",
        later=True,
    )
    lora_r: int | None = _f(
        None,
        "rank of a LoRA adapter, which alone is trained while the weights of the base are frozen; unset: no adapter, "
        "all weights are trained",
        low=1,
        key="lora.r",
        later=True,
    )
    lora_alpha: float | None = _f(
        None,
        "scale of the adapter: its part of a layer is multiplied by alpha / r; unset: 2 r",
        above=0,
        key="lora.alpha",
        later=True,
    )
    lora_targets: tuple[str, ...] | None = _f(
        None,
        "names of the linear layers that get an adapter, such as q_proj and v_proj; unset: all but the head",
        key="lora.targets",
        later=True,
    )
    seed: int = _f(
        0, "seed of the weights and the pretraining of a built-in base; independent of the run's seed", low=0
    )
    dtype: str = _f(
        "float32",
        "dtype of the parameters. With bfloat16 log-probs, losses, statistics and sums of gradients are in float32, "
        "and the optimiser steps float32 copies of the trained weights, since steps of a usual learning rate are below "
        "the rounding of bfloat16; contexts and gradient noise cannot be recorded, whose changes are below it too",
        choices=("bfloat16", "float32", "float64"),
    )
    end_tokens: tuple[str, ...] | None = _f(
        None,
        'further tokens that end a response, as text, such as ["\\n"] for answers of one line; unset: those of the '
        "tokenizer and of the model's generation settings alone",
        later=True,
    )
    digest: str | None = _f(None, "identity of the policy passed to `analysis.run(…, policy=…)`; written by that call")


@_described
@dataclass(frozen=True)
class TaskFields:
    """The table [task]: the prompts, and how responses are judged."""

    name: str = _f(
        "path",
        "the task, with its prompts and its verifier",
        choices=(*TASKS, *TEXT_TASKS, FILE_TASK, *PUBLIC_TASKS, GIVEN),
    )
    train_prompts: int = _f(1024, "number of training prompts that the run draws from", low=1)
    false_positive: float = _f(
        0.0,
        "verifier noise: probability that a wrong response is rewarded. Random rewards: 0.5 here and in "
        "false_negative makes each reward a fair coin, whatever the response; false_positive = 1 − false_negative = r "
        "one that shows 1 with probability r",
        low=0,
        high=1,
    )
    false_negative: float = _f(
        0.0, "verifier noise: probability that a correct response is not rewarded", low=0, high=1
    )
    train_file: str | None = _f(None, "for task.name = file: JSON Lines or Parquet with prompts and answers")
    validation_file: str | None = _f(
        None, "the validation file; unset: a tenth of the training file, chosen by a hash of the prompts"
    )
    test_file: str | None = _f(None, "the test file; unset: another tenth of the training file")
    prompt_column: str = _f("prompt", "column of the prompts; a.b is the entry b of the objects in column a")
    answer_column: str = _f("answer", "column of the answers")
    chat_template: bool = _f(False, "put each prompt into the tokenizer's chat template; false: use it as it stands")
    bos: bool = _f(
        False,
        "begin each prompt with the tokenizer's start token, unless the template has written it; false: add none",
        later=True,
    )
    verifier: str = _f(
        "exact",
        "exact (the response equals the answer, up to white space around it), math (math-verify), or your own as "
        "file.py:function or package.module:function",
    )
    threshold: float = _f(1.0, "the least score that is correct, of verifiers that give numbers", later=True)
    reward: str = _f(
        "correct",
        "what training sees. correct: 1 or 0, by the threshold. score: the number that the verifier gave, for "
        "objectives that compare rewards, such as grpo and rloo; rows are told apart by correct all the same",
        choices=("correct", "score"),
        later=True,
    )
    verifier_seconds: int | None = _f(
        None,
        "processor time of one call of a verifier of your own, ten times as much of waiting; unset: the attribute "
        "seconds of the function, else 60",
        low=1,
        later=True,
    )
    verifier_errors: str = _f(
        "stop",
        "a verifier of your own that raises, or gives no score: stop the run with the item named; zero: the response "
        "is wrong with the score 0, and is counted in the summary",
        choices=("stop", "zero"),
        later=True,
    )
    dataset: str | None = _f(
        None,
        "for task.name = reasoning-gym: its data set, such as chain_sum; for dataset: a folder of save_to_disk or a "
        "name on the Hub; for verifiers: the module of an environment or its path (docs/how_to/public_tasks.md)",
        later=True,
    )
    config: Table = _f(  # noqa: RUF009
        Table(),
        "settings of that data set, each under its own name: task.config.max_value = 50; of one on the Hub: name and "
        "revision; of an environment: the fields of its taskset",
        later=True,
    )
    splits: Table = _f(  # noqa: RUF009
        Table(),
        "for reasoning-gym the number of held-out questions: validation and test, 256 each where they are left out; "
        "for dataset its split for each of train, validation and test, by default those of the same name",
        later=True,
    )
    seed: int = _f(0, "seed of the questions of reasoning-gym; independent of the run's seed", low=0, later=True)
    system: str | None = _f(
        None, "text of a system message before each question; it needs chat_template; unset: none", later=True
    )
    answer_tag: str | None = _f(
        None,
        "only what stands in the last <tag>…</tag> of a response is scored, such as answer; unset: the whole response",
        later=True,
    )
    normal_form: bool = _f(
        False,
        "for the data set countdown: a response counts only as an expression in normal form, with single spaces and no "
        "needless parentheses; the correct responses can then be listed, so that evaluation is exact",
        later=True,
    )
    digest: str | None = _f(None, "identity of the task passed to `analysis.run(…, task=…)`; written by that call")


@_described
@dataclass(frozen=True)
@_with_parameters(before="kl_coef")
class ObjectiveFields:
    """The table [objective]: what an update pulls up and pushes down, and its regularisers."""

    name: str = _f(
        "reinforce-ratio",
        "the objective, listed in docs/objectives.md; your own loss is file.py:function or package.module:function",
    )
    form: str | None = _f(
        None,
        "which quantity of a token carries the advantage: ratio A·π/π_old (a PPO loss; the released code clips it at "
        "0.2), probability A·π (the paper's Eq. 6) or log A·log π; psr, nsr, w-reinforce and reinforce need one, some "
        "others take one",
        choices=FORMS,
    )
    lambda_: float | None = _f(
        None, "weight λ of correct responses in w-reinforce (0.1 in the paper)", low=0, key="lambda"
    )
    clip_low: float | None = _f(
        None, "clip where A < 0 and π/π_old < 1 − clip_low; unset: no clipping below", low=0, high=1
    )
    clip_high: float | None = _f(None, "clip where A > 0 and π/π_old > 1 + clip_high; unset: no clipping above", low=0)
    dual_clip: float | None = _f(None, "clip where A < 0 and π/π_old > dual_clip; unset: none", above=1)
    advantage: str | None = _f(
        None,
        "how advantages follow from rewards: normalised within the group or the batch, or less a constant; unset: "
        "the objective's default, which is none for psr, nsr, w-reinforce and reinforce",
        choices=ADVANTAGES,
        aliases=ADVANTAGE_ALIASES,
    )
    baseline: float | None = _f(None, "the constant for advantage = constant; V of asymre")
    kl_coef: float = _f(0.0, "coefficient β of the KL to the reference, which is the base", low=0)
    kl_estimator: str = _f(
        "k3",
        "the sampled estimators k1, k2, k3 and abs, which is |k1|; k1+ and k3+, of their value and the gradient of k2; "
        "or the full sum over the vocabulary (in the loss only)",
        choices=("k1", "k2", "k3", "full", "k1+", "k3+", "abs"),
    )
    kl_placement: str = _f(
        "loss",
        "loss: β·KL of each token is added to the loss. reward: −β·KL, at the policy that collected the rollouts, is "
        "added to the reward: token by token with a critic, else summed into the advantage of the response. "
        "before_baseline: summed into the reward from which the advantages of the group are made, as in TRL's RLOO",
        choices=("loss", "reward", "before_baseline"),
    )
    entropy_coef: float = _f(0.0, "coefficient of the entropy bonus; with entropy_target the one it starts from", low=0)
    entropy_target: float | None = _f(
        None,
        "adaptive entropy: after each update the coefficient rises by entropy_coef_delta where the mean entropy of the "
        "minibatch, in nats, was at most this, else it falls by it; the bonus is applied where it was at most this at "
        "the update before; unset: the coefficient is constant",
        low=0,
        later=True,
    )
    entropy_coef_delta: float = _f(0.005, "step of the adaptive coefficient", above=0, later=True)
    entropy_coef_min: float = _f(0.0, "least adaptive coefficient", low=0, later=True)
    entropy_coef_max: float = _f(1.0, "greatest adaptive coefficient", low=0, later=True)
    teacher: str | None = _f(
        None,
        "teacher of an objective that distils: a built-in base (of policy.seed) or another model, named as policy.base "
        "is, of the vocabulary of the policy",
        later=True,
    )
    teacher_revision: str | None = _f(None, "branch, tag or commit of a teacher on the Hub; unset: main", later=True)


def objective_settings(fields: ObjectiveFields) -> dict[str, Any]:
    """The parameters of the objective, as `objectives.get` and `objectives.check` take them."""
    return {name: getattr(fields, name) for name in PARAMETERS if hasattr(fields, name)}


@_described
@dataclass(frozen=True)
class CriticFields:
    """The table [critic]: a learned baseline."""

    enabled: bool = _f(
        False, "learn a baseline, a value head on the policy's hidden states; with reinforce and clipping this is PPO"
    )
    lr: float = _f(1e-3, "learning rate of the value head, which has its own AdamW", above=0)
    gae_lambda: float = _f(1.0, "λ of generalised advantage estimation, γ = 1", low=0, high=1)
    whiten: bool = _f(False, "standardise the advantages over the response tokens of the rollout batch")
    clip: float | None = _f(
        None,
        "PPO's value clipping: keep the value this near its old one if that makes the loss larger; unset: none",
        above=0,
    )


@_described
@dataclass(frozen=True)
class OptimizerFields:
    """The table [optimizer]: how gradients become steps."""

    name: str = _f("adamw", "the optimiser", choices=("adamw", "sgd"))
    lr: float = _f(1.5e-4, "learning rate", above=0)
    momentum: float = _f(0.0, "momentum of sgd", low=0, below=1)
    betas: tuple[float, float] = _f((0.9, 0.999), "averaging coefficients β₁ and β₂ of adamw", low=0, below=1)
    eps: float = _f(1e-8, "ε of adamw", low=0)
    weight_decay: float = _f(0.0, "weight decay: decoupled for adamw, L2 for sgd", low=0)
    schedule: str = _f(
        "constant", "course of the learning rate over the steps of the run", choices=("constant", "linear", "cosine")
    )
    warmup_steps: int = _f(0, "steps of linear warm-up", low=0)
    max_grad_norm: float | None = _f(None, "the global gradient norm is clipped to this; unset: not clipped", above=0)


@_described
@dataclass(frozen=True)
class RolloutFields:
    """The table [rollout]: how responses are sampled."""

    prompts: int = _f(128, "prompts per step", low=1)
    group_size: int = _f(8, "responses per prompt", low=1)
    temperature: float = _f(
        1.0, "sampling temperature; updates differentiate the distribution at the same temperature", above=0
    )
    top_k: int = _f(
        0,
        "sample from the k most probable tokens only, ties to the lower id; 0: from all. Updates still "
        "differentiate the whole distribution",
        low=0,
    )
    top_p: float = _f(
        1.0,
        "nucleus: sample from the fewest most probable tokens (of the top_k) that hold this fraction of their mass; "
        "1: from all. Updates still differentiate the whole distribution",
        above=0,
        high=1,
    )
    max_new_tokens: int | None = _f(None, "length of the longest response; unset: that of the task", low=1)
    dtype: str | None = _f(
        None,
        "dtype of the copy of the policy that samples; unset: that of the policy. Old log-probs and statistics "
        "always come from the policy itself",
        choices=("bfloat16", "float32"),
    )
    refresh_every: int = _f(
        1,
        "staleness: steps between renewals of the policy that samples, so that rollouts are up to this less one steps "
        "old; 1: each step samples from its own policy; 0: the base samples throughout. Old log-probs are those of the "
        "policy that sampled, so that ratios correct for its age; costs a copy of the policy, and a forward pass of it "
        "in steps with older rollouts",
        low=0,
        later=True,
    )
    batch_tokens: int | None = _f(
        None,
        "tokens (prompt and longest possible response, padding included) that are sampled at a time, here and in "
        "evaluations; bounds the memory of the key-value cache, and changes rounding only, as a response depends on "
        "its prompt and its own random numbers; unset: all responses at once",
        low=1,
        later=True,
    )
    fixed: bool = _f(
        False,
        "the rollouts of the first step, with their rewards, are used again in every step; old log-probs are those of "
        "the base, which sampled them",
        later=True,
    )


@_described
@dataclass(frozen=True)
class UpdateFields:
    """The table [update]: how a batch of rollouts is cut into optimiser updates."""

    epochs: int = _f(1, "passes over the rollout batch", low=1)
    minibatches: int | None = _f(None, "optimiser updates per pass; unset with minibatch_size unset: 1", low=1)
    minibatch_size: int | None = _f(
        None,
        "rows per optimiser update, instead of minibatches; with dropped rows the number of updates then depends on "
        "how many rows are left (as in the released code)",
        low=1,
    )
    rows: str = _f(
        "keep",
        "keep or drop rows without a weight, such as wrong responses under psr",
        choices=("keep", "drop"),
    )
    drop: str = _f(
        "before",
        "with rows = drop: drop them before the batch is cut into minibatches, or from each minibatch after it",
        choices=("before", "after"),
    )
    empty: str = _f(
        "skip",
        "a minibatch without rows: skip it and leave the optimiser alone, or step with a zero gradient",
        choices=("skip", "step"),
    )
    normalizer: str = _f(
        "batch_tokens",
        "what the summed loss is divided by: all tokens of the minibatch, the tokens of its rows with a weight, "
        "each row's length and the number of rows, or a constant",
        choices=NORMALIZERS,
        aliases=NORMALIZER_ALIASES,
    )
    constant: float | None = _f(None, "the divisor for normalizer = constant", above=0)
    micro_batch: int | None = _f(
        None,
        "rows per forward and backward pass; unset: all rows of one reward sign at once. Bounds memory and changes "
        "rounding only, as the gradients add up",
        low=1,
    )
    micro_batch_tokens: int | None = _f(
        None,
        "instead of micro_batch: tokens per forward and backward pass, and per pass without gradients, prompts, "
        "responses and padding included; rows of like lengths go together, and a row that is longer has a pass of its "
        "own. Bounds memory where lengths differ, and changes rounding only",
        low=1,
        later=True,
    )
    gradient_checkpointing: bool = _f(
        False,
        "a layer keeps its input alone for the backward pass, which computes the rest again: less memory for one more "
        "forward pass; the same gradients",
        later=True,
    )
    shared_prompts: bool = _f(
        False,
        "what rows of a pass have in common, their prompt, the beginning of prompts that begin alike and the first "
        "tokens of their responses, goes through the model once, in updates and for contexts; saves the more, the "
        "longer prompts are beside responses. Changes rounding only",
        later=True,
    )
    logits: str = _f(
        "auto",
        "dense: the logits of all tokens of a pass are in memory at once. streamed: those of as many tokens at a time "
        "as make 2^25 numbers, 128 MiB in float32, and again in the backward pass; memory no longer grows with the "
        "responses, for another product with the output layer. auto: streamed where dense ones would be more numbers "
        "than that and the output layer is of a known kind. Changes rounding only",
        choices=("auto", "dense", "streamed"),
        later=True,
    )
    old_log_probs: str = _f(
        "policy",
        "where π_old of the ratios is from. policy: a forward pass of the policy before the first update of the step. "
        "rollouts: the log-probs, of the whole distribution, that the sampling model computed as it sampled; saves the "
        "pass, and with rollout.dtype π_old is the copy that sampled (the bypass mode of verl)",
        choices=("policy", "rollouts"),
        later=True,
    )
    autocast: str | None = _f(
        None,
        "mixed precision: dtype of the matrix products in an update; unset: that of the policy",
        choices=("bfloat16",),
    )
    token_mask: str | None = _f(
        None,
        "only tokens whose quantile over the minibatch's tokens is at least mask_low and below mask_high keep the "
        "gradient of the objective, by their probability π_y, the entropy H, or the signed change of their own logit "
        "sign(A)·(1 − π_y); unset: every token does. With rows = drop the quantiles are over rows with a weight alone. "
        "Regularisers and normalizer count every token. Costs a forward pass",
        choices=TOKEN_MASKS,
        later=True,
    )
    mask_low: float = _f(0.0, "lower quantile of token_mask", low=0, below=1, later=True)
    mask_high: float = _f(1.0, "upper quantile of token_mask; 1: no upper bound", above=0, high=1, later=True)
    mask_norm: str = _f(
        "own",
        "own: the gradient of the kept tokens as it is; full: scaled to the norm that the objective's gradient has "
        "without the mask, which costs another backward pass",
        choices=("own", "full"),
        later=True,
    )
    estimator: str = _f(
        "sampled",
        "sampled: the gradient from the rollouts; exact: its expectation, by enumeration of all correct responses",
        choices=("sampled", "exact"),
    )


@_described
@dataclass(frozen=True)
class EvalFields:
    """The table [eval]: how often and on what the policy is evaluated."""

    every: int = _f(8, "steps between evaluations; the base and the final policy are always evaluated", low=1)
    prompts: int = _f(
        64, "validation prompts at every evaluation, and test prompts at evaluations during training", low=1
    )
    final_prompts: int = _f(128, "test prompts at the start and at the end", low=1)
    temperatures: tuple[float, ...] = _f(
        (1.0, 0.6), "temperatures of the evaluation, all from one forward pass", above=0
    )
    top_k: int = _f(
        0,
        "evaluate the distribution over the k most probable tokens, exactly and by samples; 0: over all",
        low=0,
    )
    top_p: float = _f(1.0, "nucleus of the evaluated distribution, applied after top_k; 1: none", above=0, high=1)
    samples: int = _f(
        4, "sampled responses per prompt at the first temperature, for entropy and estimated Pass@k", low=0
    )


@_described
@dataclass(frozen=True)
class RecordFields:
    """The table [record]: what is recorded. Nothing here changes what is trained, beyond rounding."""

    tokens: float = _f(0.125, "fraction of prompt groups whose tokens are recorded; 0: none", low=0, high=1)
    columns: str = _f(
        "full", "full: every column; core: without ranks, buckets and top tokens", choices=("full", "core")
    )
    top_k: int = _f(8, "number of most probable tokens recorded at each position", low=0)
    dtype: str = _f(
        "float32",
        "dtype in which token statistics are computed, unless the logits are more precise",
        choices=("float32", "float64"),
    )
    contexts: int = _f(64, "contexts followed through updates, half of them a fixed panel; 0: none", low=0)
    contexts_every: int = _f(
        2,
        "every so many updates contexts are drawn from the batch, too; the panel is followed through all updates",
        low=1,
    )
    jvp_every: int = _f(4, "every so many of those updates also get the JVP of the step; 0: none", low=0)
    shares_every: int = _f(
        2,
        "every so many of the updates with a JVP also get it by source (momentum history, each reward sign, "
        "regularisers, weight decay); 0: none",
        low=0,
    )
    signs_every: int = _f(
        1,
        "every so many updates the gradients of the two reward signs are taken apart, for their norms and their "
        "cosine; in the others rows of both signs go through the model together; 0: never. Changes the rounding of "
        "the updates",
        low=0,
        later=True,
    )
    rollouts: float = _f(1.0, "fraction of prompt groups whose rollouts are recorded", low=0, high=1)
    noise_every: int = _f(
        0,
        "steps between measurements of gradient noise, which are also made at the base and at the end; 0: none",
        low=0,
    )
    noise_prompts: int = _f(16, "validation prompts in a measurement of gradient noise", low=1)
    noise_replicates: int = _f(8, "independent batches of rollout.group_size responses to each of those prompts", low=3)
    chunk: int = _f(10, "steps between commits; an interruption costs at most as many", low=1)
    state_every: int = _f(
        1,
        "every so many commits the state to resume from is written too: trained parameters, the optimiser's moments, "
        "random streams; an interruption costs at most as many commits. One state is kept, and a complete run keeps "
        "none. 0: none is written, and an interrupted run begins anew",
        low=0,
        later=True,
    )
    checkpoint: bool = _f(
        True,
        "final (true): save the final policy as a Hugging Face folder; none (false): save no policy",
        aliases={"final": True, "none": False},
    )


@_described
@dataclass(frozen=True)
class RunConfig:
    """One run: one method and one seed, with every factor resolved.

    Example:
        >>> RunConfig(steps=4, update=UpdateFields(epochs=2)).update.epochs
        2
    """

    steps: int = _f(40, "number of steps, each with one batch of rollouts", low=0)
    seed: int = _f(0, "seed of rollouts, shuffling, noise, evaluation and recording", low=0)
    threads: int = _f(1, "intra-op threads of the process that trains the run", low=1)
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
