"""Every objective: −w·(e_y − π) + r in closed form against autograd of its loss, a new one fails until it has a case.

The bound is ‖Δ‖∞ ≤ 1e-10·max(1, |w|) in float64. Rows are ragged; old and reference policies lie near and far (ratios
from 1e-6 to 1e6, every clip on both sides). Rows whose sampled token has all the mass but 1e-20 are beyond autograd of
log_softmax: there the oracle is the derivative of the loss in 60 digits.
"""

from __future__ import annotations

from typing import Any

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import objectives
from analysis.laws import logit_gradient
from analysis.objectives import Objective, TokenBatch, accuracy_of, get
from tests.objectives.cases import CASES

ROWS, WIDTH, VOCAB, GROUP = 24, 7, 9, 4


def token_log_probs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def inputs(objective: Objective, spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, TokenBatch]:
    """Logits (B, T, V), tokens and the batch that the objective needs; the first row has ratio 1."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    logits = 1.5 * normal(ROWS, WIDTH, VOCAB)
    tokens = torch.randint(VOCAB, (ROWS, WIDTH), generator=g)
    old = token_log_probs(logits + spread * normal(*logits.shape), tokens)
    ref = token_log_probs(logits + spread * normal(*logits.shape), tokens)
    log_probs = token_log_probs(logits, tokens)
    old[0] = log_probs[0]
    lengths = torch.arange(ROWS) % WIDTH + 1
    mask = torch.arange(WIDTH) < lengths[:, None]
    rewards = (torch.rand(ROWS, generator=g) < 0.5).double()
    rewards[:GROUP], rewards[GROUP : 2 * GROUP] = 1.0, 0.0  # groups that are all correct, all wrong
    mean = (old * mask).sum(-1) / lengths
    batch = TokenBatch(
        log_probs,
        old,
        objective.advantages(
            rewards,
            GROUP,
            mean_log_probs=mean,
            lengths=lengths,
            greedy_rewards=(torch.rand(ROWS // GROUP, generator=g) < 0.5).double().repeat_interleave(GROUP),
            reward_components=torch.stack([rewards, torch.rand(ROWS, generator=g, dtype=torch.float64)], 1),
            old_log_probs=old,
            collision=old.exp().square() + 0.1,
            mask=mask,
        ),
        mask,
        rewards,
        accuracy_of(rewards, GROUP),
        torch.special.entr(logits.softmax(-1)).sum(-1),
        ref,
        token_weights=torch.rand(ROWS, WIDTH, generator=g, dtype=torch.float64),
        kl_baseline=torch.full((ROWS,), 0.7, dtype=torch.float64),
        teacher_log_probs=token_log_probs(logits + spread * normal(*logits.shape), tokens),
        rollout_log_probs=old + 0.3 * spread * normal(ROWS, WIDTH),
    )
    return logits, tokens, objective.prepare(batch, g)


def test_every_objective_has_a_case() -> None:
    assert set(CASES) == set(objectives.names())


@pytest.mark.parametrize("spread", [0.05, 0.5, 4.0])
@pytest.mark.parametrize(("name", "case"), [(name, i) for name in CASES for i in range(len(CASES[name]))])
def test_closed_form_is_the_gradient_of_the_loss(name: str, case: int, spread: float) -> None:
    objective = get(name, **CASES[name][case])
    if not objective.entry.scalar:
        g = torch.Generator().manual_seed(1)
        logits = (4 * spread * torch.randn(50, VOCAB, generator=g, dtype=torch.float64)).requires_grad_()
        ref = torch.randn(50, VOCAB, generator=g, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(objective.logits_loss(logits, ref).sum(), logits)
        assert (objective.vector(logits.detach(), ref) - gradient).abs().max() <= 1e-10
        return
    logits, tokens, batch = inputs(objective, spread)
    leaf = logits.clone().requires_grad_()
    loss = objective.loss(token_log_probs(leaf, tokens), batch).masked_fill(~batch.real(), 0).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    weight, ratio, _ = objective.weights(batch)
    weight = weight.masked_fill(~batch.real(), 0)
    error = (logit_gradient(logits, tokens, weight) + gradient).abs().amax(-1)  # a descent direction: minus ∂L/∂z
    assert (error <= 1e-10 * weight.abs().clamp(min=1)).all(), float(error.max())
    assert ratio is not None
    clipped_or_one = objective.name in ("gspo", "gspo-token", "luspo") or objective.parameters.get("share") == 0.01
    assert (weight != 0).any() or clipped_or_one


def mp_losses(a: Any, old: Any, ref: Any, q: Any) -> dict[str, Any]:
    """Losses of one token as functions of log π_y in mpmath, with the defaults of the entries."""
    m = mpmath
    return {
        "psr-ratio": lambda x: -a * m.exp(x - old),
        "psr-probability": lambda x: -a * m.exp(x),
        "psr-log": lambda x: -a * x,
        "nsr-ratio": lambda x: a * m.exp(x - old),
        "cispo": lambda x: -min(m.exp(LEAF[0] - old), m.mpf(5)) * a * x,
        "sapo": lambda x: -a * 4 / (1 + m.exp(-(m.exp(x - old) - 1))),
        "unlikelihood": lambda x: -a * m.log(1 - m.exp(x)),
        "kl-k2": lambda x: (x - ref) ** 2 / 2,
        "kl-k3": lambda x: m.exp(ref - x) - 1 - (ref - x),
        "nft": lambda x: -(1 - q) * (x - old),
    }


LEAF: list[Any] = [0]  # the point of CISPO's stop-gradient


@pytest.mark.parametrize("gap", [20.0, 46.0, 300.0])
def test_saturated_rows_against_sixty_digits(gap: float) -> None:
    """z_y ahead by `gap`: 1 − π_y down to 1e-130, where a float64 log_softmax and its autograd are wrong or zero."""
    logits = torch.tensor([[gap, 0.0, -1.0, 0.5]], dtype=torch.float64)
    tokens = torch.tensor([0])
    rest = (logits[:, 1:] - logits[:, :1]).exp().sum(-1)
    log_prob = -torch.log1p(rest)[:, None]
    old, ref = torch.tensor([[-0.5]], dtype=torch.float64), torch.tensor([[-1.25]], dtype=torch.float64)
    with mpmath.workdps(160):
        z = [mpmath.mpf(float(v)) for v in logits[0]]

        def at(first: Any) -> Any:
            values = [first, *z[1:]]
            return values[0] - mpmath.log(sum(mpmath.exp(v) for v in values))

        LEAF[0] = at(z[0])
        for name, loss in mp_losses(mpmath.mpf(1), mpmath.mpf(-0.5), mpmath.mpf(-1.25), mpmath.mpf(0.5)).items():
            exact = float(mpmath.diff(lambda v, loss=loss: loss(at(v)), z[0], h=mpmath.mpf(10) ** -50))
            a = torch.tensor([{"nft": 0.5, "nsr-ratio": -1.0, "unlikelihood": -1.0}.get(name, 1.0)]).double()
            kept = {"floor": 1e-300} if name == "unlikelihood" else {}
            half = torch.tensor([0.5], dtype=torch.float64)
            batch = TokenBatch(log_prob, old, a, rewards=half, accuracy=half, ref_log_probs=ref)
            weight = get(name, **kept).weights(batch).weight
            ours = -float(logit_gradient(logits, tokens, weight[:, 0])[0, 0])
            assert ours == pytest.approx(exact, rel=1e-12, abs=1e-300), name


def test_planted_errors_are_seen() -> None:
    """The bound of the test above tells a sign, a factor and a mask: each of them is a million times larger."""
    objective = get("gspo", clip_low=0.5, clip_high=0.5)
    logits, tokens, batch = inputs(objective, 0.05)
    leaf = logits.clone().requires_grad_()
    loss = objective.loss(token_log_probs(leaf, tokens), batch)
    (gradient,) = torch.autograd.grad(loss.masked_fill(~batch.real(), 0).sum(), leaf)
    right = objective.weights(batch).weight.masked_fill(~batch.real(), 0)
    unmasked = objective.weights(TokenBatch(batch.log_probs, batch.old_log_probs, batch.advantages)).weight
    for wrong in (-right, right / WIDTH, unmasked.masked_fill(~batch.real(), 0)):
        assert (logit_gradient(logits, tokens, wrong) + gradient).abs().max() > 1e-4


TOKEN_LEVEL = [n for n in CASES if objectives.entry(n).coupling in ("token", "response") and objectives.entry(n).scalar]


@given(
    st.sampled_from(TOKEN_LEVEL),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([1, 2, 5]),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.integers(0, 9),
)
@settings(max_examples=150, deadline=None)
def test_shapes_dtypes_and_policies_of_one_token(
    name: str, groups: int, width: int, vocab: int, dtype: torch.dtype, seed: int
) -> None:
    objective = get(name, **next(iter(CASES[name])))
    g = torch.Generator().manual_seed(seed)
    rows = 2 * groups
    logits = torch.randn(rows, width, vocab, generator=g)
    logits[0] = 0.0  # ties
    tokens = torch.randint(vocab, (rows, width), generator=g)
    log_probs = token_log_probs(logits, tokens).to(dtype)  # V = 1: exactly 0
    rewards = torch.randint(2, (rows,), generator=g).float()
    a = objective.advantages(
        rewards,
        2,
        mean_log_probs=log_probs.float().mean(-1),
        lengths=torch.full((rows,), width),
        greedy_rewards=rewards.flip(0),
        reward_components=rewards[:, None],
        old_log_probs=log_probs,
        collision=(2 * log_probs).exp(),
        mask=torch.ones_like(log_probs, dtype=torch.bool),
    )
    same = log_probs.clone()
    batch = TokenBatch(
        log_probs,
        same,
        a,
        rewards=rewards,
        accuracy=accuracy_of(rewards, 2),
        ref_log_probs=same,
        kl_baseline=torch.zeros(rows),
        rollout_log_probs=same,
        teacher_log_probs=same,
    )
    weight, _, clip = objective.weights(batch)
    assert weight.shape == clip.shape == log_probs.shape
    assert weight.dtype == dtype
    assert torch.isfinite(weight).all()
    assert not clip.any()  # on-policy nothing is clipped
    if name.startswith("kl-k") and name != "kl-k1":
        assert not weight.any()
    assert objective.loss(log_probs, batch).shape == log_probs.shape
