"""Training of the exact toy policies, batched over seeds: what an update does when nothing is left to chance but draws.

A step draws a batch of G responses to every prompt (or takes their expectation), and makes one update of it or several,
the later ones off-policy. Weights come from the objective of `analysis.objectives`; gradients are those of the toys. As
in the loop, an update's summed gradient is divided by its rows; rows without a weight are kept or dropped before the
batch is cut into updates of equal size, so that dropping changes both the divisor and how many updates there are.
Where prompts have parameters of their own (bandit, tree) the mean over rows is multiplied by the number of prompts: the
learning rate is that of one prompt, however many train beside it.

All seeds train at once, each with its own batch entry of the policy; they share nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from toy_models.bandit import Bandit
from toy_models.loglinear import LogLinear
from toy_models.tree import Tree, TreeDraws

from ..errors import UsageError
from ..objectives import Objective, TokenBatch, accuracy_of

__all__ = ["TABLE_OPTIMIZERS", "TableHistory", "TableOptimizer", "TableSettings", "train_table"]

Toy = Bandit | LogLinear | Tree

TABLE_OPTIMIZERS = ("sgd", "momentum", "adam", "lion")


@dataclass(frozen=True)
class TableSettings:
    """One way to train a toy policy. `group_size` None takes the exact expectation over responses."""

    objective: Objective
    optimizer: str = "sgd"
    lr: float = 1.0
    group_size: int | None = 8
    updates: int = 1  # optimiser updates made of one batch while no row is dropped
    rows: str = "keep"  # keep or drop rows without a weight
    length_mean: bool = False  # divide a response's weight by its length
    steps: int = 200
    eval_every: int = 5


@dataclass(frozen=True)
class TableHistory:
    """Exact state of every seed S and prompt P at E evaluations, the first of them before any step.

    success p, entropy H(Y) over responses in nats, entropy_correct H(Y | correct) in nats (0 where one response has all
    the mass), kl from the start KL(π ‖ π_0) in nats: each (E, S, P). steps (E,) and updates (E, S) made until then.
    """

    steps: Tensor
    updates: Tensor
    success: Tensor
    entropy: Tensor
    entropy_correct: Tensor
    kl: Tensor


class TableOptimizer:
    """SGD, SGD with momentum 0.9, Adam (0.9, 0.999) and Lion (0.9, 0.99), elementwise over (S, …); ascends.

        sgd        θ += lr·g
        momentum   b = 0.9·b + g;  θ += lr·b
        adam       m, v averaged, bias-corrected;  θ += lr·m̂ / (√v̂ + ε)              Kingma & Ba, arXiv 1412.6980
        lion       θ += lr·sign(0.9·m + 0.1·g);  m = 0.99·m + 0.01·g                  Chen et al., arXiv 2302.06675

    `step` leaves the seeds alone that `moves` does not name: their state stays as it was.
    """

    def __init__(self, name: str, lr: float, *, eps: float = 1e-8) -> None:
        if name not in TABLE_OPTIMIZERS:
            raise UsageError(f"optimizer: expected one of {', '.join(TABLE_OPTIMIZERS)}, got {name!r}")
        self.name, self.lr, self._eps = name, lr, eps
        self._m: Tensor | None = None
        self._v: Tensor | None = None
        self._count: Tensor | None = None

    def step(self, gradient: Tensor, moves: Tensor) -> Tensor:
        """The displacement of the parameters for an ascent direction (S, …); `moves` bool (S,)."""
        if self.name == "sgd":
            return self.lr * gradient * _per_seed(moves, gradient)
        if self._m is None:
            self._m, self._count = torch.zeros_like(gradient), torch.zeros(len(moves), device=gradient.device)
            self._v = torch.zeros_like(gradient) if self.name == "adam" else None
        assert self._count is not None
        every = bool(moves.all())
        mask = None if every else _per_seed(moves, gradient).bool()
        self._count = self._count + moves
        if self.name == "momentum":
            self._m = _where(mask, 0.9 * self._m + gradient, self._m)
            step = self._m
        elif self.name == "lion":
            step = torch.sign(0.9 * self._m + 0.1 * gradient)
            self._m = _where(mask, 0.99 * self._m + 0.01 * gradient, self._m)
        else:
            assert self._v is not None
            self._m = _where(mask, torch.lerp(self._m, gradient, 0.1), self._m)
            self._v = _where(mask, torch.lerp(self._v, gradient * gradient, 0.001), self._v)
            count = self._count.clamp(min=1).double()
            first, second = (_per_seed(1 - b**count, gradient) for b in (0.9, 0.999))
            step = (self._m / first) / ((self._v / second).sqrt() + self._eps)
        return self.lr * (step if mask is None else torch.where(mask, step, 0.0))


def _per_seed(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def _where(mask: Tensor | None, new: Tensor, old: Tensor) -> Tensor:
    return new if mask is None else torch.where(mask, new, old)


def train_table(
    policy: Toy,
    correct: Tensor,
    settings: TableSettings,
    generator: torch.Generator,
    *,
    progress: Callable[[int], None] = lambda step: None,
) -> TableHistory:
    """Train a policy with parameters (S, …) over S seeds and P prompts; nothing is changed in place.

    Args:
        policy: a Bandit with logits (S, P, A), a LogLinear with theta (S, F), or a Tree with batch (S, P).
        correct: bool, spread over the responses (S, P, Y).
        generator: draws one uniform for each seed, prompt, response and position in canonical order, whatever the
            objective, so that methods with equal seeds are paired; none where the expectation is exact.
        progress: told every step.

    Raises UsageError for an objective whose advantages are normalised over a batch, one normalised over groups of one,
    and settings out of range.
    """
    _check(settings)
    settings.objective.check_use("a toy")
    start = policy.log_probs().double()
    if start.ndim != 3:
        raise UsageError(
            f"policy: expected a seed and a prompt axis before the responses, got log-probs of {tuple(start.shape)}"
        )
    right = correct.to(torch.bool).expand(start.shape)
    optimizer = TableOptimizer(settings.optimizer, settings.lr)
    made = torch.zeros(start.shape[0], dtype=torch.int64)
    of_right = right.double()  # a product with a bool mask costs three of these
    evaluations = [(0, made, *_state(policy, of_right, start))]
    for step in range(1, settings.steps + 1):
        if settings.group_size is None:
            policy, count = _expected_step(policy, right, settings, optimizer)
        else:
            policy, count = _sampled_step(policy, right, settings, optimizer, generator)
        made = made + count
        if step % settings.eval_every == 0 or step == settings.steps:
            evaluations.append((step, made, *_state(policy, of_right, start)))
        progress(step)
    steps, updates, *values = zip(*evaluations, strict=True)
    return TableHistory(torch.tensor(steps), torch.stack(updates), *(torch.stack(value) for value in values))


def _check(settings: TableSettings) -> None:
    if settings.objective.advantage == "batch_mean_std":
        raise UsageError(
            "objective: expected advantages by response or by group, got batch_mean_std; a batch of a toy mixes seeds"
        )
    if settings.group_size is None and settings.objective.entry.coupling != "token":
        raise UsageError(f"objective: {settings.objective.name} weighs a token by its whole response, which the exact "
                         "expectation does not follow; draw responses (group_size)")
    if settings.group_size is not None and settings.group_size < 1:
        raise UsageError(f"group_size: expected at least 1, or None for the expectation, got {settings.group_size}")
    if settings.updates < 1 or settings.steps < 1 or settings.eval_every < 1:
        raise UsageError(
            f"updates, steps, eval_every: expected at least 1, got {settings.updates}, {settings.steps}, "
            f"{settings.eval_every}"
        )
    if settings.rows not in ("keep", "drop"):
        raise UsageError(f"rows: expected keep or drop, got {settings.rows!r}")


def _state(policy: Toy, correct: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    log_probs = policy.log_probs().double()
    probs = log_probs.exp()
    surprise = probs * log_probs
    success = (probs * correct).sum(-1)
    # H(Y | correct) = log p − Σ_correct π log π / p
    known = success > 0
    given = success.log() - (surprise * correct).sum(-1) / success
    entropy_correct = torch.where(known, given, 0.0).clamp(min=0)
    return success, -surprise.sum(-1), entropy_correct, (surprise - probs * start).sum(-1)


# -- drawn responses ---------------------------------------------------------------------------------------------------


def _sampled_step(
    policy: Toy, correct: Tensor, settings: TableSettings, optimizer: TableOptimizer, generator: torch.Generator
) -> tuple[Toy, Tensor]:
    seeds, prompts, group = *correct.shape[:2], settings.group_size
    assert group is not None
    width = policy.depth if isinstance(policy, Tree) else 1
    u = torch.rand((seeds, prompts, group, width), generator=generator, dtype=torch.float64)
    draws = policy.sample(u) if isinstance(policy, Tree) else policy.sample(u[..., 0])
    rewards = correct.gather(-1, _responses(draws)).to(policy.parameters.dtype)
    scores = _token_log_probs(policy, draws)
    advantages = settings.objective.advantages(
        rewards.flatten(), group, mean_log_probs=_mean_log_probs(scores, draws).flatten()
    ).view(rewards.shape)
    accuracy = accuracy_of(rewards.flatten(), group).view(rewards.shape)
    part, rows = _parts(advantages != 0, settings)
    if settings.length_mean:
        advantages = advantages / _lengths(draws)
    old = scores
    made = torch.zeros(seeds, dtype=torch.int64)
    for j in range(rows.shape[1]):
        now = old if j == 0 else _token_log_probs(policy, draws)
        tokens = TokenBatch(now, old, advantages, _alive(draws), rewards, accuracy)
        weights = settings.objective.weights(tokens).weight
        weights = weights * (part == j)[..., None] * _per_seed(prompts / rows[:, j].clamp(min=1), weights)
        gradient = _sampled_score(policy, draws, weights)
        moves = rows[:, j] > 0
        policy = policy.with_parameters(policy.parameters + optimizer.step(gradient, moves))
        made += moves
    return policy, made


def _parts(selected: Tensor, settings: TableSettings) -> tuple[Tensor, Tensor]:
    """Which update each row (S, P, G) belongs to, and how many rows each update has, (S, updates).

    Rows stand in the order of their draws, prompt by prompt within a draw, which is as good as a random one.
    """
    seeds, prompts, group = selected.shape
    size = -(-prompts * group // settings.updates)
    order = selected.mT.flatten(1)
    kept = order if settings.rows == "drop" else torch.ones_like(order)
    index = torch.where(kept, (kept.cumsum(1) - 1) // size, settings.updates)
    rows = torch.zeros(seeds, settings.updates + 1, dtype=torch.int64).scatter_add_(1, index, torch.ones_like(index))
    return index.view(seeds, group, prompts).mT, rows[:, : settings.updates]


def _responses(draws: Tensor | TreeDraws) -> Tensor:
    return draws.response if isinstance(draws, TreeDraws) else draws


def _lengths(draws: Tensor | TreeDraws) -> Tensor:
    if isinstance(draws, TreeDraws):
        return torch.stack(draws.alive, -1).sum(-1)
    return torch.ones_like(draws)


def _alive(draws: Tensor | TreeDraws) -> Tensor | None:
    return torch.stack(draws.alive, -1) if isinstance(draws, TreeDraws) else None


def _mean_log_probs(log_probs: Tensor, draws: Tensor | TreeDraws) -> Tensor:
    alive = _alive(draws)
    return log_probs.mean(-1) if alive is None else log_probs.where(alive, 0.0).sum(-1) / alive.sum(-1)


def _token_log_probs(policy: Toy, draws: Tensor | TreeDraws) -> Tensor:
    """(S, P, G, T)."""
    if isinstance(policy, Tree):
        assert isinstance(draws, TreeDraws)
        return policy.token_log_probs(draws)
    assert isinstance(draws, Tensor)
    return policy.log_probs().gather(-1, draws)[..., None]


def _sampled_score(policy: Toy, draws: Tensor | TreeDraws, weights: Tensor) -> Tensor:
    if isinstance(policy, Tree):
        assert isinstance(draws, TreeDraws)
        return policy.sampled_score(draws, weights)
    assert isinstance(draws, Tensor)
    return policy.sampled_score(draws, weights[..., 0])


# -- expectations ------------------------------------------------------------------------------------------------------


def _expected_step(
    policy: Toy, correct: Tensor, settings: TableSettings, optimizer: TableOptimizer
) -> tuple[Toy, Tensor]:
    """The limit of a large batch: expected gradients, and as many updates as the expected share of rows makes."""
    behaviour, success = policy, policy.success(correct)
    advantages = settings.objective.limit_advantages(success)
    share = torch.ones(len(success), dtype=torch.float64)
    if settings.rows == "drop":
        chances = torch.stack([1 - success, success], -1).double()
        share = (chances * (advantages != 0)).sum(-1).mean(-1)
    made = torch.zeros(len(success), dtype=torch.int64)
    for j in range(settings.updates):
        # the last update of a step is smaller; its mean gradient is the same
        moves = share * settings.updates > j
        if not bool(moves.any()):
            break
        gradient = _expected_gradient(policy, behaviour, correct, advantages, settings)
        gradient = gradient / _per_seed(share.clamp(min=1e-12), gradient)
        policy = policy.with_parameters(policy.parameters + optimizer.step(gradient, moves))
        made += moves
    return policy, made


def _expected_gradient(
    policy: Toy, behaviour: Toy, correct: Tensor, advantages: Tensor, settings: TableSettings
) -> Tensor:
    entry = settings.objective.entry
    if not entry.homogeneous or {"rewards", "accuracy"} & {*entry.needs}:
        return _side_by_side(policy, behaviour, correct, advantages, settings)
    of_response = torch.where(correct, advantages[..., 1:], advantages[..., :1])
    if isinstance(policy, Tree):
        assert isinstance(behaviour, Tree)
        if settings.length_mean:
            of_response = of_response / policy.lengths()
        total = torch.zeros_like(policy.parameters)
        for sign in (1, -1):  # a weight is |A(y)| times what the objective makes of a token at A = ±1
            one_sided = (sign * of_response).clamp(min=0)
            if bool((one_sided > 0).any()):
                levels = zip(policy.levels, behaviour.levels, strict=True)
                factors = [_token_weights(settings.objective, new, old, sign) for new, old in levels]
                total = total + policy.expected_score(one_sided, factors, behaviour=behaviour)
        return total
    assert not isinstance(behaviour, Tree)
    weights = torch.zeros_like(of_response)
    for sign in (1, -1):
        one_sided = (sign * of_response).clamp(min=0)
        if bool((one_sided > 0).any()):
            weights = weights + one_sided * _token_weights(settings.objective, policy.logits, behaviour.logits, sign)
    if isinstance(policy, LogLinear):
        assert isinstance(behaviour, LogLinear)
        return policy.expected_score(weights, behaviour=behaviour)
    assert isinstance(behaviour, Bandit)
    return policy.expected_score(weights, behaviour=behaviour)


def _side_by_side(
    policy: Toy, behaviour: Toy, correct: Tensor, advantages: Tensor, settings: TableSettings
) -> Tensor:
    """The expected gradient where a weight is no multiple of A: wrong and correct responses apart, each at its A."""
    accuracy = behaviour.success(correct)
    total = torch.zeros_like(policy.parameters)
    for reward, of_side in ((0.0, ~correct), (1.0, correct)):
        a = advantages[..., int(reward)]
        share = of_side.to(policy.parameters.dtype)
        if isinstance(policy, Tree):
            assert isinstance(behaviour, Tree)
            share = share / policy.lengths() if settings.length_mean else share
            factors = [_weights_at(settings.objective, new, old, a, reward, accuracy)
                       for new, old in zip(policy.levels, behaviour.levels, strict=True)]
            total = total + policy.expected_score(share, factors, behaviour=behaviour)
            continue
        assert not isinstance(behaviour, Tree)
        weights = share * _weights_at(settings.objective, policy.logits, behaviour.logits, a, reward, accuracy)
        if isinstance(policy, LogLinear):
            assert isinstance(behaviour, LogLinear)
            total = total + policy.expected_score(weights, behaviour=behaviour)
        else:
            assert isinstance(behaviour, Bandit)
            total = total + policy.expected_score(weights, behaviour=behaviour)
    return total


def _weights_at(
    objective: Objective, logits: Tensor, old_logits: Tensor, a: Tensor, reward: float, accuracy: Tensor
) -> Tensor:
    """The weight of every arm, of the shape of `logits` (S, P, …), at advantages and accuracies (S, P)."""
    now, old = logits.log_softmax(-1), old_logits.log_softmax(-1)

    def spread(values: Tensor) -> Tensor:
        return values.view(*values.shape, *[1] * (now.ndim - values.ndim)).expand(*now.shape[:-1], 1)

    return objective.weights(TokenBatch(now, old, spread(a), None, spread(torch.full_like(a, reward)),
                                        spread(accuracy))).weight


def _token_weights(objective: Objective, logits: Tensor, old_logits: Tensor, sign: int) -> Tensor:
    """The objective's weight of every arm at A = ±1, of the shape of `logits`."""
    now, old = logits.log_softmax(-1), old_logits.log_softmax(-1)
    return objective.weights(TokenBatch(now, old, torch.full_like(now[..., :1], float(sign)))).weight
