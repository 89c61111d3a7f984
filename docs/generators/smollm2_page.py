"""docs/smollm2.md: a pretrained model under PSR, NSR, W-REINFORCE and GRPO, from docs/results/smollm2.json."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.common.tables import Table
from analysis.evaluation.intervals import student_quantile
from analysis.recipes.cost import duration_text

from .results import read
from .smollm2 import KS, TASKS
from .smollm2_math import ANSWERS, LEVELS, LONGEST, PROBLEMS
from .templates import StatementError, wrapped

__all__ = ["smollm2_page"]

_SHARE = 0.01  # of the tokens: rarer classes are not spoken of
METHODS = ("PSR", "NSR", "W-REINFORCE", "GRPO")

_PAGE = """\
# A pretrained model: SmolLM2

Everything else in these pages is measured on models that the project makes itself. Here the same commands train
SmolLM2-135M-Instruct, a pretrained language model of 30 layers and 49,152 tokens (Apache-2.0; its weights were stored
with about four bits each and are used as float32), and trace its answers to problems of MATH.

```sh
make smollm2     # the model: build/smollm2/, 98 MB
python -m analysis.trace --run recipes/smollm2_sums.toml --out runs/smollm2/smollm2_sums
python -m analysis.trace --run recipes/smollm2_addition.toml --out runs/smollm2/smollm2_addition
python -m analysis.trace --run recipes/smollm2_noise.toml --out runs/smollm2/smollm2_noise
python -m analysis.trace --run recipes/smollm2_noise.toml --seed 1 --out runs/smollm2/smollm2_noise_seed1
python -m docs.generators.smollm2_math MATH.parquet runs/smollm2/answers.jsonl
python -m analysis.trace --model build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --rollouts runs/smollm2/answers.jsonl \\
  --objective psr-log --objective nsr-log --on-policy --out runs/smollm2/smollm2_math
python -m docs.generators.measure smollm2 runs/smollm2
```

## Training with exact evaluation

The two tasks of arithmetic list every correct response as tokens ([Tasks](explanation/tasks.md)), so success
probabilities and Pass@k are exact also for this model. `addition` asks for the sum of two numbers after two examples
and has one correct answer; `sums` asks for two numbers with a given sum after four examples and has 4 to 19. A step is
one update from 64 on-policy rollouts (8 prompts × 8), in ratio form, with AdamW at a learning rate of 1e-5, chosen
after a pilot with another seed, which tried 1e-6 and 1e-5. The divisor is the number of all response tokens. So PSR and
NSR have the same expected gradient up to the small random divisor ([the laws](explanation/laws.md)), and what separates
them here is the noise of the samples and what AdamW makes of it.

{training}

## What one may conclude, and what not

{conclusions}

## Predictions

{predictions}

## The ledger's rules on these runs

`python -m analysis.claims --on runs/smollm2/smollm2_sums` judges the records by the rules of the
[ledger](claims/index.md). With two seeds a claim about methods stays undecided, and the table says so.

{claims}

## Gradient noise

{noise}

## Where its answers to problems of MATH sit

{math}

## What it cost

{cost}
"""


def smollm2_page(results: Mapping[str, Any] | None = None) -> str:
    """The page.

    Args:
        results: of `smollm2.smollm2` with their provenance; those of docs/results/ by default.

    Raises:
        StatementError: the results contradict a sentence.
    """
    found = read("smollm2") if results is None else results
    return _PAGE.format(
        training="\n\n".join(wrapped(_training(name, found["tasks"][name])) for name in TASKS),
        conclusions=_conclusions(found),
        predictions=wrapped(_predictions(found["tasks"])),
        claims=_claims(found["tasks"]),
        noise=wrapped(_noise(found["noise"])),
        math=wrapped(_math(found["math"])),
        cost=wrapped(_cost(found)),
    )


def _training(name: str, task: Mapping[str, Any]) -> str:
    rows = task["runs"]
    several = name == "sums"
    heads = [
        "method, seed",
        "Pass@1",
        *(f"Pass@{k}" for k in KS),
        *(["effective correct responses"] if several else []),
    ]
    lines = [f"| {' | '.join([*heads, 'entropy (nats)'])} |", "|:--" + "|--:" * len(heads) + "|"]
    shown = [("base", _row(rows, METHODS[0], 0, 0))]
    shown += [
        (f"{method}, {seed}", _row(rows, method, seed, task["steps"])) for method in METHODS for seed in _seeds(rows)
    ]
    for label, row in shown:
        cells = [f"{row['pass_at_1']:.3f}", *(f"{row[f'pass_at_{k}']:.3f}" for k in KS)]
        cells += [f"{row['effective']:.2f}"] if several else []
        lines.append(f"| {' | '.join([label, *cells, _entropies(rows, label, row)])} |")
    return "\n\n".join(
        [
            f"### `{name}`",
            f"![Pass@1, entropy and their comparison on {name}](../figures/smollm2_{name}.png)",
            "\n".join(lines),
            f"After {task['steps']} steps; the same {task['prompts']} test prompts in every row, exact, at temperature "
            "1. Entropy: mean over the prefixes of fixed responses of the base, which are drawn anew for each seed; of "
            "the base, both." + (" Effective: geometric mean over prompts." if several else ""),
        ]
    )


def _entropies(rows: Sequence[Mapping[str, Any]], label: str, row: Mapping[str, Any]) -> str:
    if label != "base":
        return f"{row['entropy_nats']:.2f}"
    return ", ".join(f"{_row(rows, METHODS[0], seed, 0)['entropy_nats']:.2f}" for seed in _seeds(rows))


def _seeds(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    return sorted({row["seed"] for row in rows})


def _row(rows: Sequence[Mapping[str, Any]], method: str, seed: int, step: int) -> Mapping[str, Any]:
    (found,) = (row for row in rows if (row["method"], row["seed"], row["step"]) == (method, seed, step))
    return found


def _conclusions(found: Mapping[str, Any]) -> str:
    """What the numbers say, each sentence checked against them."""
    sums = found["tasks"]["sums"]
    gains = {method: _gains(sums, method, "pass_at_1") for method in METHODS}
    kept = {method: _gains(sums, method, "effective") for method in METHODS}
    _say(min(gains["PSR"]) > max(*gains["NSR"], *gains["W-REINFORCE"]), "on sums PSR gains more Pass@1 than NSR")
    _say(all(value < 0 for values in kept.values() for value in values), "every method loses effective responses")
    adding = [gain for method in METHODS for gain in _gains(found["tasks"]["addition"], method, "pass_at_1")]
    _say(min(adding) > 0.3, "on addition every run gains Pass@1")
    noise = {row["estimator"]: row for row in found["noise"]["together"]}
    ratio = noise["NSR"]["variance"] / noise["PSR"]["variance"]
    _say(ratio > 4, "NSR is noisier than PSR at this success probability")
    small = found["noise"]["seeds"][0]["p"]
    items = (
        f"In both seeds PSR raises Pass@1 on `sums` by more than NSR: by {_both(gains['PSR'])} against "
        f"{_both(gains['NSR'])}. The expected gradient is the same for both. At a success probability of {small:.2f} "
        "nearly every response is wrong, and the NSR gradient is a small mean of many large terms: it needs "
        f"{ratio:.0f} times as many rollouts for an estimate as good ([gradient noise](#gradient-noise)). "
        "W-REINFORCE with λ = 0.1 follows NSR.",
        "On `addition`, where a sixth of the answers are right at the start, every run gains between "
        f"{min(adding):.2f} and {max(adding):.2f}, and all walk down the same path of entropy against Pass@1, as far "
        "as two seeds can tell (right panel). NSR and W-REINFORCE start later in one of the seeds.",
        "On `sums` NSR and W-REINFORCE do not keep the entropy: it rises in one seed and falls in the other, as a walk "
        "does that noise drives. Every method lowers the effective number of correct responses.",
        "One may not conclude that PSR is better. The learning rate is the same for all methods, and a noisier "
        "gradient needs more rollouts or a smaller rate. The seeds share one base, the test questions of `sums` are "
        "five numbers, and the base is at 4%, far below the 60 to 90% of the paper's models, where the ratio of the "
        "variances turns round ([Findings](findings.md)).",
        "One may not read the two lines of a method as an interval. With two seeds Student's interval is thirteen "
        "times as wide as the standard error.",
    )
    intro = (
        f"Two seeds, {sums['steps']} steps and one model show that the instrument works on a pretrained model, and "
        "what it sees there. They decide nothing about methods in general."
    )
    return "\n\n".join([wrapped(intro), "\n".join(_item(text) for text in items)])


def _item(text: str) -> str:
    return textwrap.fill(
        text, 120, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )


def _gains(task: Mapping[str, Any], method: str, name: str) -> list[float]:
    rows = task["runs"]
    return [_row(rows, method, seed, task["steps"])[name] - _row(rows, method, seed, 0)[name] for seed in _seeds(rows)]


def _both(values: Sequence[float]) -> str:
    return " and ".join(f"{value:.3f}".replace("-", "−") for value in values)


def _say(true: bool, statement: str) -> None:
    if not true:
        raise StatementError(f"smollm2: the results no longer say: {statement}; write this sentence of the page anew")


def _predictions(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "| task, method | JVP, log π(y): least R² | JVP, entropy: least R² | own law, log π(y): same sign |",
        "|:--|--:|--:|--:|",
    ]
    for name in TASKS:
        for method in METHODS:
            rows = [row for row in tasks[name]["predictions"] if row["method"] == method]
            panel = [row for row in rows if row["kind"] == "panel"]
            least = {
                quantity: min(row["jvp_r2"] for row in panel if row["quantity"] == quantity and row["jvp_n"])
                for quantity in ("log_prob", "entropy")
            }
            own = [
                row for row in rows if row["weights"] == "nonzero" and row["quantity"] == "log_prob" and row["law_n"]
            ]
            signs = ", ".join(
                f"{row['law_sign_agreement']:.2f}" for row in sorted(own, key=lambda row: (row["seed"], -row["sign"]))
            )
            lines.append(f"| `{name}`, {method} | {least['log_prob']:.3f} | {least['entropy']:.3f} | {signs} |")
    note = (
        "JVP: the first order in the whole step of the parameters against what happened on held-out prefixes, the "
        "lower R² of the two seeds. Own law: fraction of contexts of the batches that moved as the gradient of their "
        "own token alone says; one number for each seed and reward sign that had weights. On `addition` the first "
        "steps move the policy far: there the first order explains log π(y) in the main, and entropy in part."
    )
    return "\n".join(lines) + f"\n\n{note}"


def _claims(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    ids = sorted({claim["id"] for name in TASKS for claim in tasks[name]["claims"]}, key=lambda i: (i[0], int(i[1:])))
    lines = ["| claim | " + " | ".join(f"`{name}`" for name in TASKS) + " |", "|:--|" + ":--|" * len(TASKS)]
    for claim in ids:
        verdicts = [
            next((entry["verdict"] for entry in tasks[name]["claims"] if entry["id"] == claim), "not judged")
            for name in TASKS
        ]
        lines.append(f"| {claim} | {' | '.join(verdicts)} |")
    return "\n".join(lines)


def _noise(data: Mapping[str, Any]) -> str:
    seeds = sorted({row["seed"] for row in data["seeds"]})
    heads = [*(f"projection, seed {seed}" for seed in seeds), "projection, both"]
    lines = [
        f"| estimator | expected | {' | '.join(heads)} | variance ÷ that of PSR | cosine of a batch |",
        "|:--|--:|" + "--:|" * (len(seeds) + 3),
    ]
    together = {row["estimator"]: row for row in data["together"]}
    for name, row in together.items():
        single = [_at(data["seeds"], name, seed) for seed in seeds]
        cells = [
            "–" if row["expected"] is None else f"{row['expected']:.1f}",
            *(_pm(one, "projection", 2) for one in single),
            _pm(row, "projection", 2),
            f"{row['variance'] / together['PSR']['variance']:.1f}",
            f"{row['cosine_batch']:.2f}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    any_row = data["seeds"][0]
    intro = (
        "`recipes/smollm2_noise.toml` measures how far each estimator scatters around the exact gradient of the "
        f"success probability, on {any_row['prompts']} validation prompts of `sums` (success probability "
        f"{any_row['p']:.3f}), with {any_row['group_size']} responses to each in {any_row['replicates']} independent "
        f"batches for each of {len(seeds)} seeds. The gradients are those of the parameters of a LoRA adapter of rank "
        f"{data['lora_rank']}, since those of all 135M parameters would need tens of gigabytes."
    )
    note = (
        "± one standard error over the batches. Projection: that of the mean estimate on the exact gradient, in units "
        "of the exact gradient; GRPO's expectation is not a multiple of it. Variance: trace of the covariance. "
        + " ".join(_agreement(row, data["degrees"]) for row in data["together"] if row["estimator"] in ("PSR", "NSR"))
    )
    return "\n\n".join([intro, "\n".join(lines), note])


def _agreement(row: Mapping[str, Any], degrees: int) -> str:
    """Whether the projection agrees with its expectation, by Student's 95% interval."""
    half = student_quantile(degrees) * row["projection_se"]
    agrees = abs(row["projection"] - row["expected"]) <= half
    return (
        f"The 95% interval of {row['estimator']} over both seeds, {row['projection'] - half:.2f} to "
        f"{row['projection'] + half:.2f}, {'holds' if agrees else 'does not hold'} {row['expected']:.0f}."
    ).replace("-", "−")


def _at(rows: Sequence[Mapping[str, Any]], estimator: str, seed: int) -> Mapping[str, Any]:
    (found,) = (row for row in rows if (row["estimator"], row["seed"]) == (estimator, seed))
    return found


def _pm(row: Mapping[str, Any], name: str, decimals: int) -> str:
    return f"{row[name]:,.{decimals}f} ± {row[f'{name}_se']:,.{decimals}f}".replace("-", "−")


def _math(data: Mapping[str, Any]) -> str:
    tables = {table["key"]: Table.from_json(table).to_markdown().partition("\n\n")[2] for table in data["tables"]}
    intro = (
        f"{data['answers']} answers, {ANSWERS} to each of {PROBLEMS} problems of {' and '.join(LEVELS)} at temperature "
        f"1, of at most {LONGEST} tokens: {data['tokens']:,} tokens. {data['correct']} answers are correct, "
        f"{data['finished']} end by themselves. The model sampled them itself, so this is where its own tokens sit."
    )
    parts = [intro, tables["where_tokens_sit"], _where(data), tables["classes_of_tokens"]]
    parts += [
        "![Tokens against the boundaries of the laws](../figures/smollm2_math_boundaries.png)",
        "![Entropy and the fraction below c by position](../figures/smollm2_math_positions.png)",
    ]
    return "\n\n".join(part.strip() for part in parts)


def _where(data: Mapping[str, Any]) -> str:
    """The table of classes in a sentence."""
    rows = {table["key"]: table["rows"] for table in data["tables"]}
    whole = next(row for row in rows["where_tokens_sit"] if row["responses"] == "all")
    classes = [row for row in rows["classes_of_tokens"] if row["fraction_of_tokens"]["value"] > _SHARE]
    order = sorted(classes, key=lambda row: row["below_boundary"]["value"])
    first, last = order[-1], order[0]
    return (
        f"{_percent(whole['below_boundary'])} of the tokens lie below c, and carry "
        f"{_percent(whole['gradient_below_boundary'])} of the gradient: NSR of these drains the tail as well. NSR "
        f"raises the entropy at {_percent(whole['nsr_raises_entropy'])} of the tokens. Most of all it is the class "
        f'"{first["token_class"]}" that lies below c ({_percent(first["below_boundary"])}) and least of all '
        f'"{last["token_class"]}" ({_percent(last["below_boundary"])}). By position, the first token and the late ones '
        "are the least certain."
    )


def _percent(cell: Mapping[str, Any]) -> str:
    return f"{100 * cell['value']:.0f}%"


def _cost(found: Mapping[str, Any]) -> str:
    lines = ["| | longest run | updates | contexts | evaluations | rollouts | peak memory | folder |"]
    lines.append("|:--|--:|--:|--:|--:|--:|--:|--:|")
    for name in TASKS:
        task = found["tasks"][name]
        seconds = task["seconds"]
        cells = [
            f"`{name}`",
            duration_text(sum(seconds.values())).removeprefix("about "),
            *(f"{seconds[phase]:.0f} s" for phase in ("update", "contexts", "evaluate", "rollout")),
            f"{task['peak_rss_bytes'] / 1e9:.1f} GB",
            f"{task['folder_bytes'] / 1e6:.1f} MB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    made = found["tasks"][TASKS[0]]["recorded"]
    note = (
        f"One thread of {made['processor']} that other programs used as well, torch {made['versions']['torch']}; "
        f"recorded from {made['created'][:10]} on. [Performance](performance.md) has times of a machine that does "
        "nothing else."
    )
    return "\n".join(lines) + f"\n\n{note}"
