"""Training of the exact toy policies, batched over seeds: what an update does when nothing is left to chance but draws.

A step draws a batch of G responses to every prompt (or takes their expectation), and makes one update from it or
several, the later ones off-policy: the batch may be cut into parts of equal size (`updates`, each row is used once),
and all of it may be passed over several times (`passes`, each row is used that often). Weights come from the objective
of `analysis.objectives`; gradients are those of the toys. As in the loop, an update's summed gradient is divided by its
rows; rows without a weight are kept or dropped before the batch is cut, so that dropping changes the divisor and, where
the batch is cut, how many updates there are.
Where prompts have parameters of their own (bandit, tree) the mean over rows is multiplied by the number of prompts: the
learning rate is that of one prompt, however many train beside it.

All seeds train at once, each with its own batch entry of the policy; they share nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from toy_models.exact.tensor_checks import check_correct

from ..common.short_repr import short_repr
from ..errors import UsageError
from ..objectives import Objective, TokenBatch, accuracy_of
from .table_optimizer import TableOptimizer, per_seed
from .toy_policies import Toy, ToyPolicy, toy_policy

__all__ = ["TableHistory", "TableSettings", "train_table"]


@dataclass(frozen=True)
class TableSettings:
    """One way to train a toy policy."""

    objective: Objective
    optimizer: str = "sgd"  # one of TABLE_OPTIMIZERS
    lr: float = 1.0  # learning rate of one prompt
    group_size: int | None = 8  # responses per prompt; None for the exact expectation over responses
    updates: int = 1  # parts that a batch is cut into, an optimiser update for each, while no row is dropped
    passes: int = 1  # how often all rows of a batch are used
    rows: str = "keep"  # keep or drop rows without a weight
    length_mean: bool = False  # divide a response's weight by its length
    steps: int = 200  # batches of responses
    eval_every: int = 5  # steps between evaluations


@short_repr
@dataclass(frozen=True)
class TableHistory:
    """Exact state of every seed S and prompt P at E evaluations, the first of them before any step.

    Attributes:
        steps: (E,) steps made until then.
        updates: (E, S) updates made until then.
        success: (E, S, P) probability of a correct response.
        entropy: (E, S, P) H(Y) over responses, in nats.
        entropy_correct: (E, S, P) H(Y | correct) in nats, 0 where one response has all the mass.
        kl: (E, S, P) KL(π ‖ π_0) to the start, in nats.
        clipped: (E, S) of the tokens with an advantage, over all updates until then, the fraction that the clip held.
    """

    steps: Tensor
    updates: Tensor
    success: Tensor
    entropy: Tensor
    entropy_correct: Tensor
    kl: Tensor
    clipped: Tensor


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
        correct: bool mask that spreads over the responses (S, P, Y).
        settings: how to train.
        generator: draws one uniform for each seed, prompt, response and position in canonical order, whatever the
            objective, so that methods with equal seeds are paired; none where the expectation is exact.
        progress: called with the number of each step.

    Returns:
        The exact state of every seed and prompt at each evaluation.

    Raises:
        UsageError: an objective whose advantages are normalised over a batch or over groups of one, settings out of
            range, or a learning rate under which parameters overflow.
        ValueError: a mask of another shape or type.

    Example:
        >>> from analysis.objectives import get
        >>> from toy_models import Bandit
        >>> policy = Bandit(torch.zeros(1, 1, 4))
        >>> settings = TableSettings(get("psr-log"), group_size=None, steps=1)
        >>> history = train_table(policy, torch.tensor([True, False, False, False]), settings, torch.Generator())
        >>> history.success[:, 0, 0].tolist() == sorted(history.success[:, 0, 0].tolist())
        True
    """
    _check(settings)
    settings.objective.check_use("a toy")
    current = toy_policy(policy)
    start = current.log_probs.double()
    if start.ndim != 3:
        raise UsageError(
            f"policy: expected a seed and a prompt axis before the responses, got log-probs of {tuple(start.shape)}"
        )
    check_correct(correct, start.shape)
    rewards = correct.expand(start.shape).to(policy.parameters.dtype)
    exact_rewards = rewards.double()
    optimizer = TableOptimizer(settings.optimizer, settings.lr)
    count = UpdateCount(start.shape[0])
    evaluations = [(0, count.updates.clone(), *_state(current, exact_rewards, start), count.clipped_fraction())]
    for step in range(1, settings.steps + 1):
        if settings.group_size is None:
            current = _expected_step(current, rewards, settings, optimizer, count)
        else:
            current = _sampled_step(current, rewards, settings, optimizer, count, generator)
        if step % settings.eval_every == 0 or step == settings.steps:
            state = _state(current, exact_rewards, start)
            evaluations.append((step, count.updates.clone(), *state, count.clipped_fraction()))
        progress(step)
    steps, updates, *values = zip(*evaluations, strict=True)
    return TableHistory(torch.tensor(steps), torch.stack(updates), *(torch.stack(value) for value in values))


class UpdateCount:
    """What the updates of each seed have come to so far: how many, and how many tokens the clip held.

    Attributes:
        updates: Updates made, (S,) int64.
        weighted: Tokens with an advantage in these updates, or their expected number, (S,).
        clipped: Those of them that the clip held, (S,).
    """

    def __init__(self, seeds: int) -> None:
        self.updates = torch.zeros(seeds, dtype=torch.int64)
        self.weighted = torch.zeros(seeds, dtype=torch.float64)
        self.clipped = torch.zeros(seeds, dtype=torch.float64)

    def clipped_fraction(self) -> Tensor:
        """clipped / weighted, 0 where no token had an advantage; (S,)."""
        return self.clipped / self.weighted.clamp(min=1e-300)


def _check(settings: TableSettings) -> None:
    if "batch" in settings.objective.compares():
        raise UsageError(
            f"objective: expected advantages by response or by group, got {settings.objective.name} with advantages "
            "over the batch; a batch of a toy mixes seeds"
        )
    if settings.group_size is None and settings.objective.coupling != "token":
        raise UsageError(
            f"objective: {settings.objective.name} weighs a token by its whole response, which the exact "
            "expectation does not follow; draw responses (group_size)"
        )
    if settings.group_size is not None and settings.group_size < 1:
        raise UsageError(f"group_size: expected at least 1, or None for the expectation, got {settings.group_size}")
    if min(settings.updates, settings.passes, settings.steps, settings.eval_every) < 1:
        raise UsageError(
            f"updates, passes, steps, eval_every: expected at least 1, got {settings.updates}, {settings.passes}, "
            f"{settings.steps}, {settings.eval_every}"
        )
    if not 0 < settings.lr < float("inf"):
        raise UsageError(f"lr: expected a positive number, got {settings.lr:g}")
    if settings.rows not in ("keep", "drop"):
        raise UsageError(f"rows: expected keep or drop, got {settings.rows!r}")


def _moved(policy: ToyPolicy, displacement: Tensor) -> ToyPolicy:
    try:
        return policy.moved(displacement)
    except ValueError as error:
        raise UsageError(f"lr: the parameters left the finite numbers ({error}); lower the learning rate") from error


def _state(policy: ToyPolicy, correct: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    log_probs = policy.log_probs.double()
    probs = log_probs.exp()
    surprise = probs * log_probs
    success, total = _dot(probs, correct), surprise.sum(-1)
    # H(Y | correct) = log p − Σ_correct π log π / p
    known = success > 0
    given = success.log() - _dot(surprise, correct) / success
    entropy_correct = torch.where(known, given, 0.0).clamp(min=0)
    return success, -total, entropy_correct, total - _dot(probs, start)


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return torch.einsum("spy,spy->sp", left, right)


# -- drawn responses ---------------------------------------------------------------------------------------------------


def _sampled_step(
    policy: ToyPolicy,
    correct: Tensor,
    settings: TableSettings,
    optimizer: TableOptimizer,
    count: UpdateCount,
    generator: torch.Generator,
) -> ToyPolicy:
    seeds, prompts, group = *correct.shape[:2], settings.group_size
    assert group is not None
    drawn = policy.draw(torch.rand((seeds, prompts, group, policy.width), generator=generator, dtype=torch.float64))
    rewards = correct.gather(-1, drawn.index)
    old = policy.token_log_probs(drawn)
    advantages = settings.objective.advantages(
        rewards.flatten(), group, mean_log_probs=drawn.mean(old).flatten(), lengths=drawn.lengths().flatten()
    ).view(rewards.shape)
    accuracy = accuracy_of(rewards.flatten(), group).view(rewards.shape)
    part, rows = _parts(advantages != 0, settings)
    lengths = drawn.lengths()
    weighted = torch.where(advantages != 0, lengths, 0)
    by_advantage = settings.length_mean and settings.objective.entry.homogeneous
    if by_advantage:
        advantages = advantages / lengths
    for j in list(range(rows.shape[1])) * settings.passes:
        now = policy.token_log_probs(drawn)
        tokens = TokenBatch(now, old, advantages, drawn.alive, rewards, accuracy)
        weights, _, clip = settings.objective.weights(tokens)
        if settings.length_mean and not by_advantage:
            weights = weights / lengths[..., None]
        held = clip.bool() if drawn.alive is None else clip.bool() & drawn.alive
        count.weighted += (weighted * (part == j)).sum((-2, -1))
        count.clipped += (held.sum(-1) * (part == j)).sum((-2, -1))
        weights = weights * ((part == j)[..., None] * per_seed(prompts / rows[:, j].clamp(min=1), weights))
        moves = rows[:, j] > 0
        policy = _moved(policy, optimizer.step(policy.sampled_gradient(drawn, weights), moves))
        count.updates += moves
    return policy


def _parts(selected: Tensor, settings: TableSettings) -> tuple[Tensor, Tensor]:
    """Which update each row (S, P, G) belongs to, and how many rows each update has, (S, updates).

    Rows stand in the order of their draws, prompt by prompt within a draw, which is as good as a random one.
    """
    seeds, prompts, group = selected.shape
    size = -(-prompts * group // settings.updates)
    if settings.rows == "keep":
        index = (torch.arange(prompts * group) // size).expand(seeds, -1)
    else:
        kept = selected.mT.flatten(1)
        index = torch.where(kept, (kept.cumsum(1) - 1) // size, settings.updates)
    rows = torch.zeros(seeds, settings.updates + 1, dtype=torch.int64).scatter_add_(1, index, torch.ones_like(index))
    return index.view(seeds, group, prompts).mT, rows[:, : settings.updates]


# -- expectations ------------------------------------------------------------------------------------------------------


def _expected_step(
    policy: ToyPolicy, correct: Tensor, settings: TableSettings, optimizer: TableOptimizer, count: UpdateCount
) -> ToyPolicy:
    """The limit of a large batch: expected gradients, and as many updates as the expected share of rows makes."""
    behaviour, success = policy, policy.success(correct)
    advantages = settings.objective.limit_advantages(success)
    share = torch.ones(len(success), dtype=torch.float64)
    if settings.rows == "drop":
        chances = torch.stack([1 - success, success], -1).double()
        share = (chances * (advantages != 0)).sum(-1).mean(-1)
    for j in list(range(settings.updates)) * settings.passes:
        # the last update of a pass may be smaller; its mean gradient is the same
        size = (share * settings.updates - j).clamp(0, 1)
        moves = size > 0
        if not bool(moves.any()):
            continue
        gradient, weighted, clipped = policy.expected_update(
            settings.objective, behaviour, correct, advantages, length_mean=settings.length_mean
        )
        count.weighted += weighted.sum(-1) * size
        count.clipped += clipped.sum(-1) * size
        if settings.rows == "drop":
            gradient = gradient / per_seed(share.clamp(min=1e-12), gradient)
        policy = _moved(policy, optimizer.step(gradient, moves))
        count.updates += moves
    return policy
