"""Factors of tokens that combine with any objective: against autograd, by hand, and against TRL and verl."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from analysis import objectives
from analysis.errors import UsageError
from analysis.laws import logit_gradient
from analysis.objectives import TokenBatch, get
from analysis.objectives.corrections import factor_of
from tests.objectives.cases import CASES
from tests.objectives.peers import trl_peer, verl_peer
from tests.objectives.test_every_objective import inputs, token_log_probs

CORRECTIONS: dict[str, dict[str, Any]] = {
    "truncated": {"rollout_is": "token-truncate", "rollout_is_high": 1.05},
    "masked and rejected": {
        "rollout_is": "token-mask",
        "rollout_is_high": 1.3,
        "rollout_is_low": 0.8,
        "rollout_reject": "sequence-max-k2",
        "rollout_reject_high": 0.5,
        "off_policy_threshold": 0.1,
    },
}
OF_TOKENS = [name for name in CASES if objectives.entry(name).takes_corrections]


@pytest.mark.parametrize("correction", list(CORRECTIONS))
@pytest.mark.parametrize("name", OF_TOKENS)
def test_every_objective_with_a_factor_of_each_token(name: str, correction: str) -> None:
    """−w·(e_y − π) is the gradient of Σ_t c_t·ℓ_t, also where the losses of a response are coupled."""
    objective = get(name, **CASES[name][0], **CORRECTIONS[correction])
    logits, tokens, batch = inputs(objective, 0.3)
    leaf = logits.clone().requires_grad_()
    loss = objective.loss(token_log_probs(leaf, tokens), batch).masked_fill(~batch.real(), 0).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    weight = objective.weights(batch).weight.masked_fill(~batch.real(), 0)
    error = (logit_gradient(logits, tokens, weight) + gradient).abs().amax(-1)
    assert (error <= 1e-10 * weight.abs().clamp(min=1)).all(), float(error.max())
    plain = get(name, **CASES[name][0]).weights(batch).weight.masked_fill(~batch.real(), 0)
    assert not torch.allclose(plain, weight) or not plain.any()


def batch_of(gap: list[list[float]], drift: float = 0.0, advantages: tuple[float, ...] = (1.0, -1.0)) -> TokenBatch:
    """Two responses with log(π_old/μ) = gap, NaN at padding, and log(π/π_old) = drift."""
    values = torch.tensor(gap, dtype=torch.float64)
    mask = ~values.isnan()
    old = torch.full_like(values, -1.0)
    rollout = old - values.nan_to_num(nan=7.0)
    return TokenBatch(old + drift, old, torch.tensor(advantages).double(), mask, rollout_log_probs=rollout)


GAP = [[0.5, -0.25, 0.0], [-1.0, 0.25, float("nan")]]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"rollout_is": "token-truncate", "rollout_is_high": 1.5}, [[1.5, 0.7788, 1.0], [0.3679, 1.2840, 1.0]]),
        (
            {"rollout_is": "token-truncate", "rollout_is_high": 1.5, "rollout_is_low": 0.8},
            [[1.5, 0.8, 1.0], [0.8, 1.2840, 1.0]],
        ),
        (
            {"rollout_is": "token-mask", "rollout_is_high": 1.5, "rollout_is_low": 0.5},
            [[0.0, 0.7788, 1.0], [0.0, 1.2840, 1.0]],
        ),
        ({"rollout_is": "sequence-truncate", "rollout_is_high": 1.1}, [[1.1] * 3, [0.4724] * 3]),
        ({"rollout_is": "sequence-mask", "rollout_is_high": 1.1}, [[0.0] * 3, [0.4724] * 3]),
        ({"rollout_reject": "token-k2", "rollout_reject_high": 0.1}, [[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]),
        ({"rollout_reject": "sequence-sum-k1", "rollout_reject_high": 1.5}, [[1.0] * 3, [0.0] * 3]),
        ({"rollout_reject": "sequence-mean-k2", "rollout_reject_high": 0.1}, [[1.0] * 3, [0.0] * 3]),
        ({"off_policy_threshold": 0.37}, [[1.0] * 3, [0.0] * 3]),  # mean_t log(μ/π) = (1 − 0.25)/2
        ({"off_policy_threshold": 0.38}, [[1.0] * 3, [1.0] * 3]),
    ],
)
def test_factors_by_hand(settings: dict[str, Any], expected: list[list[float]]) -> None:
    batch = batch_of(GAP)
    factor = factor_of(batch, settings)
    assert factor is not None
    torch.testing.assert_close(
        factor[batch.real()], torch.tensor(expected).double()[batch.real()], rtol=1e-4, atol=1e-4
    )


def test_the_off_policy_mask_without_the_engine_s_log_probs_is_against_the_old_policy() -> None:
    batch = replace(batch_of([[0.0, 0.0], [-9.0, -9.0]], drift=-0.5), rollout_log_probs=None)
    for threshold, kept in ((0.49, 0.0), (0.51, 1.0)):
        factor = factor_of(batch, {"off_policy_threshold": threshold})
        assert factor is not None
        assert factor.tolist() == [[1.0, 1.0], [kept, kept]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollout_is": "token"}, r"objective.rollout_is: unknown value 'token'; "),
        ({"rollout_is": "token-mask"}, r"objective.rollout_is_high: rollout_is needs a bound, got none; set"),
        ({"rollout_reject": "token-k1"}, r"objective.rollout_reject_high: rollout_reject needs a bound, got none"),
        ({"rollout_is_low": 0.5}, r"objective.rollout_is_low: expected rollout_is beside it, got 0.5 without"),
        (
            {"rollout_is": "token-mask", "rollout_is_low": 3.0, "rollout_is_high": 2.0},
            r"objective.rollout_is_low: expected at most rollout_is_high = 2, got 3; exchange them",
        ),
        (
            {"rollout_reject": "token-k2", "rollout_reject_low": 0.1, "rollout_reject_high": 0.2},
            r"objective.rollout_reject_low: only k1 has a lower bound, got 0.1 with token-k2; leave it unset",
        ),
        ({"off_policy_threshold": -1}, r"objective.off_policy_threshold: expected a number ≥ 0, got -1"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        get("grpo", **settings)


def test_missing_log_probs_and_objectives_without_tokens() -> None:
    objective = get("grpo", rollout_is="token-truncate", rollout_is_high=2.0)
    assert objective.needs() == ("advantages", "old_log_probs", "rollout_log_probs")
    zeros = torch.zeros(1, 2)
    with pytest.raises(
        UsageError, match=r"rollout_log_probs: grpo needs them, got None; log-probs of the same tokens as"
    ):
        objective.weights(TokenBatch(zeros, zeros, torch.ones(1)))
    nan = torch.tensor([[0.0, torch.nan]])
    with pytest.raises(UsageError, match=r"rollout_log_probs: expected finite numbers, got nan at index \(0, 1\)"):
        objective.weights(TokenBatch(zeros, zeros, torch.ones(1), rollout_log_probs=nan))
    with pytest.raises(UsageError, match=r"teacher_log_probs: opd needs them, got None; log-probs of the same tokens"):
        get("opd").weights(TokenBatch(zeros, zeros))
    with pytest.raises(UsageError, match=r"objective.rollout_is: only objectives of tokens and responses have it"):
        get("dpo", rollout_is="token-mask", rollout_is_high=2.0)


def test_one_s_own_loss_takes_a_factor(tmp_path: Any) -> None:
    source = tmp_path / "mine.py"
    source.write_text("def square(log_probs, batch):\n    return -log_probs.exp() ** 2\n")
    batch = batch_of(GAP)
    own = get(f"{source}:square", rollout_is="token-truncate", rollout_is_high=1.2)
    plain = get(f"{source}:square").weights(batch).weight
    factor = factor_of(batch, own.parameters)
    real = batch.real()
    torch.testing.assert_close(own.weights(batch).weight[real], (plain * factor)[real])


# -- against the libraries ---------------------------------------------------------------------------------------------


def random_batch(seed: int = 0, spread: float = 0.3) -> TokenBatch:
    g = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(8, 6, generator=g, dtype=torch.float64) - 0.05
    log_probs = (old + spread * torch.randn(8, 6, generator=g, dtype=torch.float64)).clamp(max=-1e-3)
    rollout = old + spread * torch.randn(8, 6, generator=g, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([6, 1, 3, 6, 5, 2, 4, 6])[:, None]
    a = torch.randn(8, generator=g, dtype=torch.float64)
    return TokenBatch(log_probs, old, a, mask, rollout_log_probs=rollout, teacher_log_probs=rollout)


@pytest.mark.slow
@pytest.mark.parametrize("low", [None, 0.7])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_importance_factors_are_verl_s(level: str, low: float | None) -> None:
    """One number truncates (TIS), "low_high" masks (IcePop)."""
    batch = random_batch()
    helper = verl_peer.module("verl.trainer.ppo.rollout_corr_helper")
    theirs, _ = helper.compute_rollout_correction_weights(
        batch.old_log_probs - batch.rollout_log_probs,
        batch.real().double(),
        level,
        1.4 if low is None else f"{low}_1.4",
    )
    way = "truncate" if low is None else "mask"
    ours = factor_of(batch, {"rollout_is": f"{level}-{way}", "rollout_is_high": 1.4, "rollout_is_low": low})
    assert ours is not None
    torch.testing.assert_close(ours[batch.real()], theirs[batch.real()], rtol=1e-12, atol=0)


@pytest.mark.slow
def test_rejections_are_verl_s() -> None:
    batch = random_batch(1)
    helper = verl_peer.module("verl.trainer.ppo.rollout_corr_helper")
    names = {name.replace("_", "-").replace("seq-", "sequence-"): name for name in helper.SUPPORTED_ROLLOUT_RS_OPTIONS}
    (reject,) = (p for p in objectives.parameters.CORRECTIONS if p.name == "rollout_reject")
    assert set(reject.choices) == set(names)
    seen = set()
    for ours, theirs in names.items():
        for high in (1.05, 1.3) if ours.endswith("k1") else (0.02, 0.1):
            mask, _ = helper.compute_rollout_rejection_mask(
                batch.old_log_probs - batch.rollout_log_probs, batch.real().double(), theirs, high
            )
            factor = factor_of(batch, {"rollout_reject": ours, "rollout_reject_high": high})
            assert factor is not None
            assert torch.equal(factor * batch.real(), mask), (ours, high)
            seen |= set(factor[batch.real()].tolist())
    assert seen == {0.0, 1.0}


@pytest.mark.slow
def test_the_off_policy_mask_is_trl_s() -> None:
    batch = random_batch(2)
    mask_of = trl_peer.trainer("trl.trainer.grpo_trainer", "GRPOTrainer").get_off_policy_mask
    kept = set()
    for threshold in (0.0, 0.05, 0.2):
        theirs = mask_of(
            batch.advantages[:, None], batch.log_probs, batch.rollout_log_probs, batch.real().double(), threshold
        )
        ours = factor_of(batch, {"off_policy_threshold": threshold})
        assert ours is not None
        assert torch.equal(ours, theirs.expand_as(ours))
        kept |= set(theirs.flatten().tolist())
    assert kept == {0.0, 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", ["bnpo", "vespo", "cispo"])
def test_the_factor_acts_as_in_trl_s_loss(loss_type: str) -> None:
    batch = random_batch(3)
    settings = {"rollout_is": "token-truncate", "rollout_is_high": 1.2}
    ratio = factor_of(batch, settings)
    name = {"bnpo": "grpo", "vespo": "vespo", "cispo": "cispo"}[loss_type]
    clips = {"bnpo": {"clip_low": 0.2, "clip_high": 0.2}, "cispo": {"clip_high": 0.2}, "vespo": {}}[loss_type]
    fields = {"bnpo": {}, "cispo": {"epsilon_high": 1.2}, "vespo": {}}[loss_type]
    theirs = trl_peer.grpo_weights(
        batch.log_probs,
        batch.old_log_probs,
        batch.advantages,
        batch.real(),
        loss_type=loss_type,
        sampling_ratio=ratio.masked_fill(~batch.real(), 1.0),
        **fields,
    )
    ours = get(name, **clips, **settings).weights(batch).weight
    torch.testing.assert_close(ours[batch.real()], theirs[batch.real()], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "ours"), [("vanilla", "ppo"), ("gspo", "gspo-token"), ("dppo_tv", "dppo-tv")])
def test_the_factor_acts_as_in_verl_s_losses(name: str, ours: str) -> None:
    batch = random_batch(4)
    settings = {"rollout_is": "token-truncate", "rollout_is_high": 1.2}
    clips = {} if ours == "dppo-tv" else {"clip_low": 0.2, "clip_high": 0.2}
    more = {"ratio_cap": 3.0} if ours == "dppo-tv" else {"dual_clip": 3.0} if ours == "ppo" else {}
    theirs = verl_peer.weights(
        name,
        batch.log_probs,
        batch.old_log_probs,
        batch.advantages,
        batch.real(),
        rollout_weights=factor_of(batch, settings),
    )
    found = get(ours, **clips, **more, **settings).weights(batch).weight
    torch.testing.assert_close(found[batch.real()], theirs[batch.real()], rtol=1e-9, atol=1e-12)
