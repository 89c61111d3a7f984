"""The tables of a run: every column with its type, unit and meaning, in one place.

One schema serves the small training loop, trainers of other libraries and recorded rollouts. `docs/records.md` is
generated from this module (`python -m docs.generators`), and the Parquet files carry `SCHEMA_VERSION` in their
metadata; a change to a column goes with a new version. A nullable column that is new (`Column.later`) does not: files
of before lack it and read as missing there.

Conventions. A value belongs to the parameters *before* the update that it is filed under. `step` counts rollout
batches, `update` counts optimiser updates over the whole run (skipped ones included); `rollout` indexes the global
batch of its step. Statistics are of the policy's distribution softmax(logits / T) at the training temperature T, which
updates differentiate, whatever truncates the distribution of rollouts. Positions, ranks and groups count from 0.
Entropies are in nats. Floats are float32 unless the column says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "BUCKETS",
    "BUCKET_LABELS",
    "LAW_STATISTICS",
    "RUN_FIELDS",
    "RUN_STATUS",
    "SCHEMA_VERSION",
    "SHARES",
    "TABLES",
    "TOKEN_STATISTICS",
    "Column",
    "Table",
    "arrow_schema",
]

SCHEMA_VERSION = 2

# Rank buckets, as people count: 1, 2-4, 5-16, 17-128, 129-1024, 1025+. The edges are the last rank of each bucket but
# the last, counted from one.
BUCKETS: tuple[int, ...] = (1, 4, 16, 128, 1024)
BUCKET_LABELS: tuple[str, ...] = ("1", "2–4", "5–16", "17–128", "129–1024", "1025+")

# Parts of a parameter step: of this update's gradients (now) and of earlier ones, in momentum (past), each by source:
# rewarded rows, unrewarded rows, entropy bonus and KL loss, weight decay.
SHARES: tuple[str, ...] = tuple(
    f"{source}_{when}" for when in ("now", "past") for source in ("pos", "neg", "reg", "decay")
)

# Statistics of the distribution that predicted a token, columns of `tokens` and fields of `laws.TokenStatistics`: those
# that the first-order laws follow from, which every trace has, and all of them.
LAW_STATISTICS: tuple[str, ...] = (
    "log_prob",
    "one_minus_prob",
    "entropy",
    "collision",
    "collision_log_prob",
    "direction_norm",
)
TOKEN_STATISTICS: tuple[str, ...] = (
    *LAW_STATISTICS,
    "argmax_token",
    "argmax_prob",
    "token_rank",
    "top_ids",
    "top_probs",
)

RUN_STATUS = ("running", "complete", "interrupted", "diverged")

# run.json: field -> (meaning, whether a writer must give it)
RUN_FIELDS: dict[str, tuple[str, bool]] = {
    "schema_version": ("version of this schema", False),
    "run_id": ("name of the run and of its folder", True),
    "label": ("name of its method in tables and figures", True),
    "engine": ("what recorded it: small (the built-in loop), trl, verl, attach (your own loop) or offline", True),
    "status": ("running, complete, interrupted or diverged", False),
    "recipe": ("the resolved recipe, every field; null where there was none", True),
    "hash": ("hash of the resolved recipe; null where there was none", True),
    "seed": ("the run's seed; null where there was none", True),
    "temperature": ("T of softmax(logits / T) in every statistic", True),
    "bucket_edges": ("last rank, from one, of each rank bucket but the last", False),
    "task": ("name of the task", False),
    "inputs": ("path and SHA-256 of each file of prompts and of the verifier's source, by field", False),
    "verifier": ("the verifier of responses as text, with the versions that its verdicts depend on", False),
    "texts": (
        "of a task in texts: chat template, start token, end tokens, the least score that is correct, and whether "
        "correct responses can be listed",
        False,
    ),
    "base_sha256": ("hash of the weights that the run started from", False),
    "teacher_sha256": ("hash of the weights of the teacher, where there is one", False),
    "versions": ("versions of this library and of its dependencies", False),
    "git_commit": ("commit of the source tree, where there is one", False),
    "machine": ("processor and operating system", False),
    "threads": ("intra-op threads", False),
    "device": ("device of parameters and updates", False),
    "dtype": ("dtype of parameters and updates", False),
    "record": ("what was recorded, and how often", False),
    "reward_functions": ("names of the reward functions of a trainer of another library", False),
    "weights": (
        "of a run of attach: its recorded tokens, and how many have no weight because the gradient does not tell it",
        False,
    ),
    "trace": (
        "of an offline trace: columns of the file, its options, objectives of the summary, rows left out",
        False,
    ),
    "created": ("when the run was started", False),
    "updated": ("when run.json was last written", False),
}

Kind = Literal["int8", "int32", "int64", "float32", "float64", "bool", "str", "ints", "floats"]


@dataclass(frozen=True)
class Column:
    """One column: `kind` is its type ("ints" and "floats" are lists), `null` whether a value may be missing.

    `later` says that the column came after the first files of this schema version. Files of before lack it, and where
    it is missing throughout it does not enter the digest, so that records without it keep theirs.
    """

    name: str
    kind: Kind
    doc: str
    unit: str = ""
    null: bool = False
    later: bool = False


@dataclass(frozen=True)
class Table:
    """One table: its key, its columns and what one row is."""

    name: str
    key: tuple[str, ...]
    row: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


def _c(name: str, kind: Kind, doc: str, unit: str = "", *, null: bool = False, later: bool = False) -> Column:
    return Column(name, kind, doc, unit, null or later, later)


_UPDATE = _c("update", "int32", "optimiser update, counted over the run; −1 for an offline trace")
_STEP = _c("step", "int32", "rollout batch; offline that of the file, 0 where it has none")
_ROLLOUT = _c(
    "rollout",
    "int32",
    "index in the global batch of the step, whatever the rank; offline: row of the file, invalid lines included",
)
_POSITION = _c("position", "int32", "index in the response")
_WEIGHT_DOC = "−∂L_update/∂log π_y as measured by a hook, regularisers apart; null where no gradient was seen"

PROMPTS = Table(
    "prompts",
    ("prompt_id",),
    "a prompt that was trained on, evaluated or used as a panel context",
    (
        _c("prompt_id", "str", "hash of the token ids"),
        _c("split", "str", "train, validation or test; offline for recorded rollouts"),
        _c("text", "str", "the prompt as text"),
        _c("token_ids", "ints", "the prompt as token ids"),
        _c("answer", "str", "reference answer, where the task has one", null=True),
        _c(
            "n_solutions",
            "int32",
            "number of correct responses of a held-out prompt, where they can be enumerated",
            null=True,
        ),
    ),
)

ROLLOUTS = Table(
    "rollouts",
    ("step", "rollout"),
    "one sampled response",
    (
        _STEP,
        _ROLLOUT,
        _c("rank", "int32", "process that sampled it"),
        _c("prompt_id", "str", "its prompt"),
        _c("group", "int32", "index of the prompt in the step's batch"),
        _c("response_ids", "ints", "tokens of the response, the end token and the output of tools included"),
        _c("response_text", "str", "the response as text"),
        _c("length", "int32", "number of response tokens that the policy sampled", "tokens"),
        _c("finished", "bool", "whether it ended with the end token; offline whether it was traced with one"),
        _c("reward", "float32", "the reward that training saw (after verifier noise)", null=True),
        _c("correct", "bool", "the verifier's true verdict (before noise)", null=True),
        _c("noise_flipped", "bool", "whether verifier noise flipped the reward"),
        _c("verdict", "str", "why the verifier decided so", null=True),
        _c("score", "float64", "the verifier's score, where it gave a number", later=True),
        _c("advantage", "float32", "A of the rollout", null=True),
        _c("dropped", "bool", "whether the objective left the rollout out of the update"),
        _c(
            "reward_values",
            "floats",
            "value of each reward function, in the order of reward_functions in run.json; NaN where it gave none",
            later=True,
        ),
    ),
)

TOKENS = Table(
    "tokens",
    ("update", "step", "rollout", "position"),
    "one response token as one update saw it (whole prompt groups are sampled, see record.tokens)",
    (
        _UPDATE,
        _STEP,
        _ROLLOUT,
        _POSITION,
        _c("epoch", "int32", "pass over the rollout batch"),
        _c("minibatch", "int32", "minibatch within the epoch"),
        _c("token", "int32", "token id y"),
        _c(
            "sampling_log_prob",
            "float32",
            "log q_y under the distribution q that sampled it: temperature, top-k and top-p "
            "applied, renormalised, as the sampler saw it",
            "nats",
            null=True,
        ),
        _c(
            "kept_mass",
            "float32",
            "Σ π over the tokens that top-k and top-p kept there (1 without them), π the policy "
            "that sampled: sampling_log_prob + log kept_mass = log π_y",
            null=True,
        ),
        _c(
            "old_log_prob",
            "float32",
            "under the policy that sampled (rollout.refresh_every), recomputed before the step's first update; offline "
            "that of the file, or on request the model's own",
            "nats",
            null=True,
        ),
        _c("ref_log_prob", "float32", "under the reference policy", "nats", null=True),
        _c("log_prob", "float32", "log π_y", "nats"),
        _c("one_minus_prob", "float32", "1 − π_y from residual sums"),
        _c("entropy", "float32", "H = −Σ π log π", "nats"),
        _c("collision", "float32", "c = Σ π²"),
        _c("collision_log_prob", "float32", "S = Σ π² log π", "nats"),
        _c("direction_norm", "float32", "‖e_y − π‖₂"),
        _c("argmax_token", "int32", "most probable token", null=True),
        _c("argmax_prob", "float32", "its probability", null=True),
        _c("token_rank", "int32", "rank of y, 0 the most probable; ties by the lower id", null=True),
        _c("advantage", "float32", "A of the token", null=True),
        _c("ratio", "float32", "π_y / π_old,y", null=True),
        _c("clip", "int8", "whether the clip was active: −1 below, 0 not, +1 above", null=True),
        _c("weight", "float32", _WEIGHT_DOC + "; missing where the gradient does not tell it", null=True),
        _c(
            "entropy_weight",
            "float32",
            "coefficient of the entropy vector in the update's descent direction",
            null=True,
        ),
        _c(
            "kl_weight",
            "float32",
            "the same for KL to the reference: scalar weight of a sampled estimator, "
            "coefficient of the KL vector for the full one",
            null=True,
        ),
        _c(
            "residual",
            "float32",
            "‖G + w·(e_y − π)/T‖ / ‖G‖ where the true ∂L/∂z = G was seen; "
            "the same of both seen through the head where only ∂L/∂hidden was",
            null=True,
        ),
        _c("bucket_mass", "floats", "Σ π by rank bucket", null=True),
        _c("bucket_mass_sq", "floats", "Σ π² by rank bucket", null=True),
        _c("top_ids", "ints", "most probable tokens", null=True),
        _c("top_probs", "floats", "their probabilities", null=True),
    ),
)

CONTEXTS = Table(
    "contexts",
    ("context",),
    "a prefix whose whole next-token distribution is followed through updates",
    (
        _c("context", "int32", "running number"),
        _c("kind", "str", "batch (from the minibatch being applied) or panel (held out, fixed at step 0)"),
        _c("prompt_id", "str", "its prompt"),
        _c("prefix_ids", "ints", "prompt and response tokens before the position"),
        _c("token", "int32", "the token y that followed"),
        _c("step", "int32", "step of the rollout it comes from", null=True),
        _c("rollout", "int32", "the rollout it comes from", null=True),
        _c("position", "int32", "position in that response", null=True),
        _c("sign", "int8", "+1 from a rewarded response, −1 from an unrewarded one", null=True),
    ),
)

FLOWS = Table(
    "flows",
    ("update", "context"),
    "one context before and after one update",
    (
        _UPDATE,
        _c("context", "int32", "which context"),
        _c("weight", "float32", _WEIGHT_DOC + "; 0 for a row that the objective dropped", null=True),
        _c("log_prob_before", "float32", "log π_y", "nats"),
        _c("log_prob_after", "float32", "log π'_y", "nats"),
        _c("one_minus_prob_before", "float32", "1 − π_y from residual sums"),
        _c("direction_norm_before", "float32", "‖e_y − π‖₂"),
        _c("entropy_before", "float32", "H", "nats"),
        _c("entropy_after", "float32", "H'", "nats"),
        _c("collision_before", "float32", "Σ π²"),
        _c("collision_after", "float32", "Σ π'²"),
        _c("collision_log_prob_before", "float32", "Σ π² log π", "nats"),
        _c("collision_log_prob_after", "float32", "Σ π'² log π'", "nats"),
        _c("argmax_prob_before", "float32", "max π"),
        _c("argmax_prob_after", "float32", "max π'"),
        _c("argmax_token_before", "int32", "argmax π"),
        _c("bucket_mass_before", "floats", "Σ π by rank bucket"),
        _c("bucket_mass_after", "floats", "Σ π' over the same tokens (ranks before the update)"),
        _c("bucket_mass_sq_before", "floats", "Σ π² by rank bucket"),
        _c("token_bucket", "int8", "bucket of y before the update"),
        _c("tv", "float32", "½ Σ |π' − π|"),
        _c("kl", "float32", "KL(π ‖ π')", "nats"),
        _c("jvp_dlog_prob", "float32", "first-order Δ log π_y from the actual parameter step", "nats", null=True),
        _c("jvp_dentropy", "float32", "first-order ΔH from the actual parameter step", "nats", null=True),
        _c("jvp_bucket", "floats", "first-order Δ of bucket_mass from the actual parameter step", null=True),
        _c(
            "jvp_dlog_prob_shares",
            "floats",
            f"jvp_dlog_prob by part of the step: {', '.join(SHARES)}",
            "nats",
            null=True,
        ),
        _c("jvp_dentropy_shares", "floats", "jvp_dentropy by part of the step, in the same order", "nats", null=True),
        _c("top_ids", "ints", "tokens at the top before, at the top after, and y"),
        _c("top_prob_before", "floats", "π of top_ids"),
        _c("top_prob_after", "floats", "π' of top_ids"),
        _c("top_dlogit", "floats", "Δz of top_ids, of the logits as the model gives them"),
    ),
)

UPDATES = Table(
    "updates",
    ("update",),
    "one optimiser update",
    (
        _UPDATE,
        _STEP,
        _c("epoch", "int32", "pass over the rollout batch"),
        _c("minibatch", "int32", "minibatch within the epoch"),
        _c("skipped", "bool", "whether the optimiser was left untouched because no row had a weight"),
        _c("rows_pos", "int32", "rewarded rows in the loss"),
        _c("rows_neg", "int32", "unrewarded rows in the loss"),
        _c("tokens_pos", "int32", "tokens of rewarded rows in the loss", "tokens"),
        _c("tokens_neg", "int32", "tokens of unrewarded rows in the loss", "tokens"),
        _c("loss", "float64", "value of the loss, regularisers included", null=True),
        _c(
            "normalizer",
            "float64",
            "what the summed loss was divided by (null for per_sequence, where it varies)",
            null=True,
        ),
        _c("lr", "float64", "learning rate"),
        _c("grad_norm_pos", "float64", "‖gradient of the rewarded rows‖₂", null=True),
        _c("grad_norm_neg", "float64", "‖gradient of the unrewarded rows‖₂", null=True),
        _c("grad_norm_reg", "float64", "‖gradient of entropy bonus and KL loss‖₂", null=True),
        _c("grad_norm_total", "float64", "‖their sum‖₂, before clipping", null=True),
        _c("grad_cos", "float64", "cosine between the gradients of the two signs", null=True),
        _c("clip_coef", "float64", "factor by which the gradient norm was clipped, 1 where it was not", null=True),
        _c("param_step_norm", "float64", "‖θ' − θ‖₂; null where a trainer of another library steps", null=True),
        _c("ratio_mean_pos", "float64", "mean of π/π_old over tokens of rewarded rows", null=True),
        _c("ratio_mean_neg", "float64", "the same for unrewarded rows", null=True),
        _c("clip_low_pos", "float64", "fraction of tokens of rewarded rows clipped below", null=True),
        _c("clip_low_neg", "float64", "the same for unrewarded rows", null=True),
        _c("clip_high_pos", "float64", "fraction of tokens of rewarded rows clipped above", null=True),
        _c("clip_high_neg", "float64", "the same for unrewarded rows", null=True),
        _c("weight_sum_pos", "float64", "Σ of weights over tokens of rewarded rows", null=True),
        _c("weight_sum_neg", "float64", "the same for unrewarded rows", null=True),
        _c("entropy_pos", "float64", "mean H over tokens of rewarded rows", "nats", null=True),
        _c("entropy_neg", "float64", "the same for unrewarded rows", "nats", null=True),
        _c("kl", "float64", "mean of the KL estimator over tokens", "nats", null=True),
        _c("value_loss", "float64", "½·mean (V − return)² of the critic before its step", null=True),
        _c(
            "mask_scale",
            "float64",
            "factor that brought the gradient of the kept tokens to the norm of that of all tokens "
            '(update.mask_norm = "full"); null without',
            later=True,
        ),
    ),
)

STEPS = Table(
    "steps",
    ("step",),
    "one rollout batch",
    (
        _STEP,
        _c("n_rollouts", "int32", "rollouts sampled"),
        _c("n_updates", "int32", "optimiser updates made from them, skipped ones not counted"),
        _c("reward_mean", "float64", "mean reward (after verifier noise)"),
        _c(
            "correct_ratio",
            "float64",
            "fraction of correct rollouts (the paper's Fig. 4c); null, as the next two, where rewards do not tell",
            null=True,
        ),
        _c("fully_solved_ratio", "float64", "fraction of prompts with every rollout correct (Fig. 4d)", null=True),
        _c("none_solved_ratio", "float64", "fraction of prompts with no rollout correct", null=True),
        _c("length_pos", "float64", "mean length of rewarded responses", "tokens", null=True),
        _c("length_neg", "float64", "mean length of unrewarded responses", "tokens", null=True),
        _c(
            "entropy_own",
            "float64",
            "mean H of the policy that sampled, softmax(z / T), over the sampled tokens",
            "nats",
            null=True,
        ),
        _c(
            "entropy_rollout",
            "float64",
            "the same of the distribution that was sampled from: entropy_own unless top-k or top-p truncates it",
            "nats",
            null=True,
        ),
        _c(
            "kept_mass",
            "float64",
            "mean over the sampled tokens of the policy's mass on what top-k and top-p leave; 1 without them",
            null=True,
        ),
        _c(
            "rollout_kl",
            "float64",
            "mean over the sampled tokens of log(q_y / π_y) = −log kept_mass, which is the KL of the distribution "
            "sampled from to the policy's; 0 without truncation. Updates differentiate the policy's distribution, so "
            "their mean is biased where this is not 0",
            "nats",
            null=True,
        ),
        _c(
            "age",
            "int32",
            "steps that the policy had been trained for since the one that sampled these rollouts; null where each "
            "step samples from its own policy (rollout.refresh_every = 1)",
            "steps",
            later=True,
        ),
    ),
)

EVALS = Table(
    "evals",
    ("step", "prompt_id", "temperature", "top_p", "top_k"),
    "one prompt under one sampling distribution at one evaluation; step s is the policy after s rollout batches, 0 the "
    "base. All but greedy_correct is of the row's distribution, truncated and renormalised at each token",
    (
        _STEP,
        _c("update", "int32", "optimiser updates made until then, skipped ones not counted"),
        _c("prompt_id", "str", "which prompt"),
        _c("split", "str", "validation (for matching) or test (for reporting)"),
        _c("temperature", "float64", "temperature of the evaluated distribution"),
        _c("top_p", "float64", "nucleus of the evaluated distribution, 1 for none"),
        _c("top_k", "int32", "the evaluated distribution keeps the k most probable tokens, 0 for all; before top_p"),
        _c("p", "float64", "exact success probability", null=True),
        _c("n", "int32", "samples drawn at this temperature", null=True),
        _c("c", "int32", "correct among them", null=True),
        _c(
            "effective_solutions",
            "float64",
            "exp of the entropy of the distribution over correct responses; null where it reaches none",
            null=True,
        ),
        _c("mode_mass", "float64", "exact probability of the tokens that the task's named mode opens with", null=True),
        _c("mode_p", "float64", "exact success probability given that mode", null=True),
        _c("greedy_correct", "bool", "whether greedy decoding is correct"),
        _c("entropy_fixed", "float64", "mean H over the fixed prefixes of the prompt", "nats"),
        _c("entropy_own", "float64", "mean H over the n own samples", "nats", null=True),
        _c("tail_mass", "float64", "mean mass beyond rank 16 on the fixed prefixes"),
    ),
)


def _with_se(name: str, doc: str, unit: str = "") -> tuple[Column, Column]:
    return (
        _c(name, "float64", doc, unit, null=True),
        _c(f"{name}_se", "float64", f"standard error of {name}", unit, null=True),
    )


NOISE = Table(
    "noise",
    ("step", "estimator"),
    "one estimator of the policy gradient beside the exact one ∇p on fixed validation prompts; step s is the policy "
    "after s rollout batches. Standard errors are over replicates of its rollouts, at these prompts",
    (
        _STEP,
        _c("update", "int32", "optimiser updates made until then, skipped ones not counted"),
        _c("estimator", "str", "PSR, NSR, W-REINFORCE (λ of the run, else 0.1), REINFORCE or GRPO, by true verdicts"),
        _c("p", "float64", "exact success probability, mean over the prompts"),
        _c("gradient_norm", "float64", "‖∇p‖₂ of that mean"),
        _c("prompts", "int32", "how many prompts"),
        _c("group_size", "int32", "responses to each of them in a replicate"),
        _c("replicates", "int32", "independent batches of rollouts"),
        _c("temperature", "float64", "of the distribution that is sampled and differentiated"),
        _c(
            "expected",
            "float64",
            "a, where the estimator's expectation is a·∇p as long as rollouts are drawn from the distribution that is "
            "differentiated; null for GRPO, whose expectation is not a multiple of ∇p",
            null=True,
        ),
        *_with_se(
            "projection", "⟨g, ∇p⟩/‖∇p‖² of the mean estimate g: a, unless rollouts are drawn from another distribution"
        ),
        *_with_se("variance", "trace of the covariance of g times its number of rollouts: per rollout"),
        *_with_se("distance", "mean ‖g − a∇p‖² times the number of rollouts: the variance, and any bias"),
        *_with_se(
            "noise_to_signal",
            "variance over the squared norm of the expectation along ∇p: the number of rollouts "
            "that makes the signal as large as the noise",
            "rollouts",
        ),
        *_with_se("noise_ratio", "noise_to_signal over that of PSR; for NSR the ratio of their variances"),
        *_with_se("cosine", "cosine of the expectation with ∇p, corrected for noise: may exceed 1"),
        *_with_se("cosine_batch", "mean cosine of one replicate's g with ∇p"),
    ),
)

TIMINGS = Table(
    "timings",
    ("step", "phase"),
    "wall-clock of one phase of one step; never part of a run's identity",
    (
        _STEP,
        _c("phase", "str", "rollout, update, contexts, evaluate, noise or commit"),
        _c("seconds", "float64", "duration", "s"),
        _c("tokens", "int64", "tokens processed", "tokens", null=True),
        _c("peak_rss_bytes", "int64", "peak resident memory of the process so far", "bytes"),
        _c("peak_cuda_bytes", "int64", "peak memory allocated on the CUDA device so far", "bytes", null=True),
    ),
)

TABLES: dict[str, Table] = {
    table.name: table for table in (PROMPTS, ROLLOUTS, TOKENS, CONTEXTS, FLOWS, UPDATES, STEPS, EVALS, NOISE, TIMINGS)
}


@cache
def arrow_schema(table: str) -> pa.Schema:
    """The table's `pyarrow.Schema`, column documentation and schema version in its metadata."""
    import pyarrow as pa

    kinds = {
        "int8": pa.int8(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float32": pa.float32(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "str": pa.string(),
        "ints": pa.list_(pa.int32()),
        "floats": pa.list_(pa.float32()),
    }
    fields = [
        pa.field(c.name, kinds[c.kind], nullable=c.null, metadata={"doc": c.doc, "unit": c.unit})
        for c in TABLES[table].columns
    ]
    return pa.schema(fields, metadata={"schema_version": str(SCHEMA_VERSION), "table": table})
