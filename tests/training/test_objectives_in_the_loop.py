"""Every objective that a recipe may name trains, and the weight that the hook measured is the closed form's.

The tiny base in float64, one step of two epochs, rows of a sign through the model in micro-batches: so tokens that are
chosen over a whole minibatch must have been chosen before its passes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.common import batching
from analysis.errors import UsageError
from analysis.objectives.entries import ENTRIES
from analysis.objectives.rules import entry, not_trainable
from analysis.recipes import Recipe
from analysis.recipes.inputs import check_inputs, identified, input_digests
from analysis.records import load_trace
from analysis.training import setup
from analysis.training.loop import Loop
from tests.training.naive_update import naive_log_probs
from toy_models import load_policy

TRAINABLE = [name for name in ENTRIES if not_trainable(name, None) is None]
SMALL: dict[str, Any] = {
    "grid": "unset",
    "steps": 1,
    "policy.dtype": "float64",
    "objective.form": "unset",
    "objective.clip_low": "unset",
    "objective.clip_high": "unset",
    "optimizer.name": "sgd",
    "optimizer.lr": 2.0,
    "optimizer.max_grad_norm": "unset",
    "rollout.prompts": 8,
    "update.rows": "keep",
    "update.epochs": 2,
    "update.minibatches": 2,
    "update.micro_batch": 5,
    "eval.every": 10,
    "eval.prompts": 1,
    "eval.final_prompts": 1,
    "eval.samples": 0,
    "record.tokens": 0.0,
    "record.contexts": 0,
    "record.checkpoint": False,
}
NEEDS: dict[str, dict[str, Any]] = {
    **{name: {"objective.lambda": 0.1} for name in TRAINABLE if name.startswith("w-reinforce")},
    # the policy starts at the reference and would stay there
    **{name: {"objective.entropy_coef": 0.5, "optimizer.lr": 0.05} for name in TRAINABLE if name.startswith("kl-k")},
    **{name: {"objective.k": 2} for name in ("pass-at-k", "pass-at-k-full")},
    "gspo-token": {"objective.clip_low": 1.0, "objective.clip_high": 100.0, "optimizer.lr": 0.1},
    "opd-k3": {"optimizer.lr": 0.05},
    "asymre": {"objective.baseline": 0.25},
    "high-entropy": {"objective.share": 0.3},
    "kl-cov": {"objective.share": 0.2},
    "clip-cov": {"objective.share": 0.2, "objective.cov_low": 0.0},
}
_OFF_POLICY = {"update.epochs": 2, "optimizer.lr": 8.0, "rollout.top_p": 0.9}
SOURCE = "def square(log_probs, batch):\n    return -batch.per_token('advantages') * log_probs.exp() ** 2\n"


def passes_of(settings: dict[str, Any], folder: Path) -> tuple[Loop, list[Any]]:
    (planned,) = Recipe.load("tiny").set(**SMALL).set(**settings).expand()
    loop = Loop(planned.config, folder, run_id="r", label="L")
    updates: list[Any] = []
    loop.on_update = lambda index, batch, targets, result: updates.append((batch, result))
    assert loop.run() == "complete"
    return loop, updates


OF_TOKENS_AND_SEQUENCES = [
    name
    for name in TRAINABLE
    if name.startswith(("dppo", "ipo", "opd", "gspo", "kl-")) or name in ("gmpo", "luspo", "vespo", "dft")
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a policy of the tiny base's vocabulary with other weights."""
    policy = load_policy("tiny")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    folder = tmp_path_factory.mktemp("teacher")
    policy.save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def defaults() -> dict[str, list[Any]]:
    """The updates of an objective at its defaults, made once for all of its parameters."""
    return {}


def given_of(name: str, teacher: str) -> dict[str, Any]:
    distils = "teacher_log_probs" in entry(name).needs
    return {"objective.name": name, **NEEDS.get(name, {}), **({"objective.teacher": teacher} if distils else {})}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINABLE)
def test_measured_weight_is_the_closed_form(name: str, tmp_path: Path, teacher: str) -> None:
    _, updates = passes_of(given_of(name, teacher), tmp_path / "run")
    assert len(updates) == 4
    largest = 0.0
    for _, result in updates:
        for one in result.passes:
            scale = one.closed_form.abs().clamp(min=1e-3)
            assert ((one.weights - one.closed_form).abs() <= 1e-12 * scale).all(), name
            largest = max(largest, float(one.weights.abs().max()))
    assert largest > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TOKENS_AND_SEQUENCES)
def test_two_steps_of_tiny(name: str, tmp_path: Path, teacher: str) -> None:
    """As a recipe has it: float32, AdamW, clipped gradients; the parameters move and the records can be read."""
    recipe = Recipe.load("tiny").set(grid="unset", **{"objective.form": "unset", "update.rows": "keep"})
    clips = {f"objective.{name}": "unset" for name in ("clip_low", "clip_high")}
    short = {
        "steps": 2,
        "record.contexts": 0,
        "eval.every": 10,
        "eval.prompts": 1,
        "eval.final_prompts": 1,
        "eval.samples": 0,
    }
    (planned,) = recipe.set(**(clips | short | given_of(name, teacher))).expand()
    loop = Loop(planned.config, tmp_path / "run", run_id="r", label="L")
    before = [parameter.detach().clone() for parameter in loop.policy.model.parameters()]
    assert loop.run() == "complete"
    after = loop.policy.model.parameters()
    assert any(not torch.equal(x, y) for x, y in zip(before, after, strict=True))
    run = load_trace(tmp_path / "run")
    assert len(run.table("updates")) == 4
    assert run.table("tokens")["weight"].notna().all()


@pytest.mark.slow
def test_tokens_are_chosen_over_the_whole_minibatch(tmp_path: Path) -> None:
    """The passes have five rows at most; the share of the tokens with a weight is that of the minibatch."""
    _, updates = passes_of({"objective.name": "high-entropy", "objective.share": 0.25}, tmp_path / "run")
    for batch, result in updates[:2]:
        rows = torch.cat([one.rows for one in result.passes])
        selections = [one.selection for one in result.passes]
        mask = batch.mask()[rows]
        chosen = torch.cat([torch.nn.functional.pad(s, (0, mask.shape[1] - s.shape[1])) for s in selections])
        assert len(result.passes) > 2
        assert not chosen[~mask].any()
        least = -(-int(mask.sum()) // 4)
        assert least <= int(chosen.sum()) < least + 4  # first tokens of one prompt have equal entropies


@pytest.mark.slow
def test_rewards_decide_by_rank(tmp_path: Path) -> None:
    _, updates = passes_of({"objective.name": "rewarding-unlikely", "objective.rank_penalty": 1.0}, tmp_path / "run")
    batch = updates[0][0]
    rewards, a = batch.rewards.view(-1, 4), batch.advantages.view(-1, 4)
    mean = (batch.sampling_log_probs * batch.mask()).sum(1).div(batch.lengths).view(-1, 4)
    groups = [g for g in range(len(rewards)) if rewards[g].sum() == 2 and mean[g].unique().numel() == 4]
    assert groups
    for g in groups:
        right = (rewards[g] > 0).nonzero()[:, 0]
        low, high = right[mean[g][right].argsort()]
        assert a[g][low] > a[g][high]


@pytest.mark.slow
def test_a_loss_of_one_s_own_by_its_file(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text(SOURCE)
    loop, updates = passes_of({"objective.name": f"{source}:square"}, tmp_path / "run")
    for _, result in updates:
        for one in result.passes:
            torch.testing.assert_close(one.weights, one.closed_form, rtol=1e-12, atol=1e-15)
            expected = 2 * one.advantages[:, None].double() * one.log_probs.exp() ** 2 / result.normalizer
            torch.testing.assert_close(one.weights[one.mask], expected[one.mask], rtol=1e-9, atol=1e-15)
    config = loop.config
    assert set(input_digests(config)) == {"objective.name"}
    before = identified(config)["objective"]["name"]
    assert before.startswith("square@sha256:")
    source.write_text(SOURCE + "\n")
    assert identified(config)["objective"]["name"] != before
    check_inputs(config)
    source.unlink()
    with pytest.raises(UsageError, match=r"objective.name = .*mine.py:square.*expected an existing Python file"):
        check_inputs(config)


@pytest.mark.parametrize(
    ("field", "ours", "theirs"),
    [
        ("update.normalizer", "batch_tokens", "token-mean"),
        ("update.normalizer", "per_sequence", "seq-mean-token-mean"),
        ("objective.advantage", "leave_one_out", "rloo"),
        ("objective.advantage", "group_mean", "dr_grpo"),
    ],
)
def test_names_of_trl_and_verl_are_the_same_experiment(field: str, ours: str, theirs: str) -> None:
    recipe = Recipe.load("tiny").set(grid="unset")
    assert recipe.set(**{field: ours}).hash == recipe.set(**{field: theirs}).hash


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "corrections"),
    [
        ("grpo", {"rollout_is": "token-truncate", "rollout_is_high": 0.99}),
        ("gspo", {"rollout_is": "sequence-truncate", "rollout_is_high": 0.9}),
        ("vespo", {"rollout_is": "token-mask", "rollout_is_high": 1.5, "rollout_is_low": 0.5}),
        ("dppo-tv", {"rollout_reject": "token-k2", "rollout_reject_high": 1e-3}),
        ("gmpo", {"rollout_reject": "sequence-mean-k1", "rollout_reject_high": 1.001}),
        ("rloo", {"rollout_reject": "token-k1", "rollout_reject_high": 9.0, "rollout_reject_low": 1.05}),
        ("dr-grpo", {"off_policy_threshold": 0.0}),
    ],
)
def test_corrections_of_the_rollouts_reach_the_weights(name: str, corrections: dict[str, Any], tmp_path: Path) -> None:
    """top_p makes the sampling distribution another than the policy's: it stands for the rollout engine's."""
    given = {"objective.name": name, **_OFF_POLICY}
    _, before = passes_of(given, tmp_path / "a")
    _, after = passes_of(given | {f"objective.{k}": v for k, v in corrections.items()}, tmp_path / "b")
    for _, result in after:
        for one in result.passes:
            assert ((one.weights - one.closed_form).abs() <= 1e-12 * one.closed_form.abs().clamp(min=1e-3)).all()
    pairs = [
        (x, y) for (_, b), (_, a) in zip(before, after, strict=True) for x, y in zip(b.passes, a.passes, strict=True)
    ]
    assert any(not torch.equal(x.weights, y.weights) for x, y in pairs)


@pytest.mark.slow
def test_the_teacher_scores_the_tokens_of_the_policy(tmp_path: Path, teacher: str) -> None:
    """On-policy the weight of opd is log(t_y/π_y), with both from forward passes over single responses."""
    loop, updates = passes_of({"objective.name": "opd", "objective.teacher": teacher}, tmp_path / "run")
    batch, result = updates[0]
    scored = naive_log_probs(load_policy(teacher, dtype=torch.float64).model, batch)
    assert loop.teacher is not None
    for one in result.passes:
        for b, row in enumerate(one.rows.tolist()):
            lead = scored[row] - one.log_probs[b, : len(scored[row])]
            got = one.weights[b, : len(lead)] * result.normalizer
            torch.testing.assert_close(got, lead.detach(), rtol=1e-9, atol=1e-11)
            assert lead.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective.name": "opd"}, r'objective.name = "opd" without objective.teacher: it learns from a teacher'),
        ({"objective.teacher": "tiny"}, r"objective.teacher with objective.name = .*: it reads no teacher"),
        ({"objective.name": "distill-jsd"}, r"distill-jsd is a regulariser .* no teacher's logits"),
        (
            {"objective.name": "ppo", "objective.kl_placement": "before_baseline"},
            r'objective.kl_placement = "before_baseline" with objective.name = "ppo": its advantages are defined for',
        ),
        ({"objective.entropy_coef_max": 0.1}, r"objective.entropy_coef_max without objective.entropy_target"),
        (
            {"objective.entropy_target": 1.0, "objective.entropy_coef_min": 2.0},
            r"objective.entropy_coef_min = 2 with objective.entropy_coef_max = 1: expected the least first",
        ),
        ({"objective.rollout_is_high": 2.0}, r"objective.rollout_is_high: expected rollout_is beside it, got 2.0"),
        ({"objective.rollout_is": "token-mask"}, r"objective.rollout_is_high: rollout_is needs a bound, got none"),
        (
            {"objective.name": "vespo", "objective.rollout_is": "sequence-mask", "objective.rollout_is_high": 2.0},
            r"objective.rollout_is: vespo multiplies the factors of tokens into its own ratio",
        ),
    ],
)
def test_what_the_loop_refuses(settings: dict[str, Any], message: str) -> None:
    given = {"objective.name": "grpo", "update.rows": "keep"} | settings
    with pytest.raises(UsageError, match=message):
        Recipe.load("tiny").set(**SMALL).set(**given).expand()


@pytest.mark.slow
def test_a_teacher_of_another_vocabulary_is_refused(
    teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*args: Any, **more: Any) -> Any:
        policy = load_policy(*args, **more)
        if args[0] == teacher:
            policy.tokenizer.add_tokens(["☂"])
        return policy

    monkeypatch.setattr(setup, "load_policy", other)
    with pytest.raises(
        UsageError, match=r"objective.teacher = .*: expected the vocabulary of policy.base = 'tiny', got"
    ):
        passes_of({"objective.name": "opd", "objective.teacher": teacher}, tmp_path / "run")


@pytest.mark.slow
def test_a_teacher_whose_rows_depend_on_their_batch_is_refused(
    teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "differs", lambda alone, beside: True)  # the built-in policy is not compared
    with pytest.raises(UsageError, match=r"objective.teacher: expected a model whose numbers for a row do not depend"):
        passes_of({"objective.name": "opd", "objective.teacher": teacher}, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("asymre", "baseline", 0.75),
        ("sapo", "tau_pos", 3.0),
        ("sapo", "tau_neg", 3.0),
        ("high-entropy", "share", 0.6),
        ("clip-cov", "cov_low", -0.5),
        ("clip-cov", "cov_high", 0.5),
        ("kl-cov", "kappa", 5.0),
        ("nft", "ratio_floor", 1.1),
        ("nft", "epsilon", 0.5),
        ("nft", "prompt_weight", "sqrt"),
        ("oreal", "positive_weight", 2.0),
        ("oreal", "negative_weight", 2.0),
        ("rewarding-unlikely", "rank_penalty", 1.0),
        ("unlikelihood", "floor", 0.5),
        ("kl-k3", "beta", 0.5),
        ("kl-k3", "clamp", 1e-12),
        ("dppo-tv", "divergence_low", 1e-4),
        ("dppo-tv", "divergence_high", 1e-4),
        ("dppo-tv", "ratio_cap", 1.0),
        ("ipo-prime", "divergence", 1e-4),
        ("dppo-prime", "drift_coef", 1.0),
        ("gspo-token", "log_ratio_max", 1e-6),
        ("gmpo", "log_clip_low", 1e-4),
        ("gmpo", "log_clip_high", 1e-4),
        ("vespo", "vespo_k_pos", 0.5),
        ("vespo", "vespo_lambda_pos", 0.5),
        ("vespo", "vespo_k_neg", 0.5),
        ("vespo", "vespo_lambda_neg", 0.5),
        ("opd", "advantage_max", 1e-3),
        ("opd-iw", "iw_gamma", 2.0),
        ("ppo", "reward_values", "zero-one"),
        ("asymre-group", "baseline_offset", 0.5),
        ("kto", "desirable_weight", 2.0),
        ("kto", "undesirable_weight", 2.0),
        ("qae", "divide_by", "none"),
        ("qae", "interpolation", "linear"),
        ("qae", "quantile", 0.9),
        ("gpg", "rescaling", "successes"),
        ("pass-at-k", "k", 3),
        ("dro", "tau", 3.0),
        ("rloo", "whiten", "responses"),
    ],
)
def test_each_parameter_reaches_the_weights(
    name: str, field: str, value: Any, tmp_path: Path, teacher: str, defaults: dict[str, list[Any]]
) -> None:
    """The same rollouts, and from some update on other weights: those of the parameter, as the test above shows."""
    given = given_of(name, teacher)
    if name not in defaults:
        _, defaults[name] = passes_of(given, tmp_path / "a")
    before = defaults[name]
    loop, after = passes_of(given | {f"objective.{field}": value}, tmp_path / "b")
    assert loop.objective.parameters[field] == value
    assert before[0][0].responses == after[0][0].responses
    pairs = [
        (x, y) for (_, b), (_, a) in zip(before, after, strict=True) for x, y in zip(b.passes, a.passes, strict=True)
    ]
    assert any(not torch.equal(x.weights, y.weights) for x, y in pairs)
