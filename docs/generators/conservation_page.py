"""Adam's conservation law, measured: what keeps the relative probabilities of never-weighted arms, and what breaks it.

docs/conservation.md holds the derivation and the table that `measure` gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from analysis.objectives import Objective, TokenBatch, get
from analysis.tabular.table_optimizer import TableOptimizer
from toy_models.exact.arms import draw
from toy_models.exact.bandit import Bandit
from toy_models.exact.tree import END, Tree

__all__ = ["CONDITIONS", "Condition", "conservation_page", "measure"]

SEEDS, ARMS, CORRECT, GROUP, STEPS = 8, 12, 4, 8, 60
_RATE = 0.03
_NO_EPSILON = 1e-300  # 0 for every gradient but 0 itself, where it keeps 0/0 out


@dataclass(frozen=True)
class Condition:
    """One way to train a bandit with NSR or a relative of it; `holds` is the prediction of the derivation."""

    name: str
    holds: bool
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer]
    objective: Objective
    reuse: int = 1
    label_noise: float = 0.0
    entropy_bonus: float = 0.0
    max_norm: float | None = None
    max_value: float | None = None
    one_matrix: bool = False  # the contexts as rows of one parameter instead of a vector each


def _adam(**options: Any) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.Adam(parameters, **({"lr": _RATE, "eps": _NO_EPSILON} | options))


def _of(cls: type[torch.optim.Optimizer], **options: Any) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    return lambda parameters: cls(parameters, **options)


class _Lion(torch.optim.Optimizer):
    """Lion of `TableOptimizer`, one optimiser for each parameter."""

    def __init__(self, parameters: list[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})
        self._lions = [TableOptimizer("lion", lr) for _ in parameters]
        self._parameters = parameters

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for parameter, lion in zip(self._parameters, self._lions, strict=True):
            assert parameter.grad is not None
            parameter += lion.step(-parameter.grad[None], torch.tensor([True]))[0]


_CLIP_VALUE = 0.01  # of gradients whose norm, divided by the group, is about 0.1
_NSR = get("nsr", form="ratio")
CONDITIONS: tuple[Condition, ...] = (
    Condition("Adam, ε = 0", True, _adam(), _NSR),
    Condition("Adam, ε = 1e-8 (the default)", True, _adam(eps=1e-8), _NSR),
    Condition("AMSGrad", True, _adam(amsgrad=True), _NSR),
    Condition("NAdam", True, _of(torch.optim.NAdam, lr=_RATE, eps=_NO_EPSILON), _NSR),
    Condition("Adamax", True, _of(torch.optim.Adamax, lr=_RATE, eps=_NO_EPSILON), _NSR),
    Condition("RMSprop", True, _of(torch.optim.RMSprop, lr=_RATE / 3, eps=_NO_EPSILON), _NSR),
    Condition("Adagrad", True, _of(torch.optim.Adagrad, lr=_RATE * 3, eps=_NO_EPSILON), _NSR),
    Condition("Rprop", True, _of(torch.optim.Rprop, lr=_RATE), _NSR),
    Condition("Adam, probability form (Eq. 6)", True, _adam(), get("nsr", form="probability")),
    Condition("Lion", True, _of(_Lion, lr=_RATE), _NSR),
    Condition(
        "Adam, four passes over a batch, PPO's clip", True, _adam(), get("nsr", form="ratio", clip_low=0.2), reuse=4
    ),
    Condition("Adam, gradient norm clipped", True, _adam(), _NSR, max_norm=_CLIP_VALUE),
    Condition(f"Adam, gradient clipped by value at {_CLIP_VALUE:g}", False, _adam(), _NSR, max_value=_CLIP_VALUE),
    Condition("Adam, ε = 1e-3", False, _adam(eps=1e-3), _NSR),
    Condition(
        "Adam, weight decay 0.1 (decoupled)",
        False,
        _of(torch.optim.AdamW, lr=_RATE, eps=_NO_EPSILON, weight_decay=0.1),
        _NSR,
    ),
    Condition("Adam, one correct arm in twenty judged wrong", False, _adam(), _NSR, label_noise=0.05),
    Condition("Adam, W-REINFORCE", False, _adam(), get("w-reinforce", form="ratio", lambda_=0.1)),
    Condition("Adam, GRPO", False, _adam(), get("grpo", form="ratio")),
    Condition("Adam, entropy bonus 0.01", False, _adam(), _NSR, entropy_bonus=0.01),
    Condition("Adafactor, a vector for each context", True, _of(torch.optim.Adafactor, lr=_RATE), _NSR),
    Condition(
        "Adafactor, contexts as rows of one matrix", False, _of(torch.optim.Adafactor, lr=_RATE), _NSR, one_matrix=True
    ),
    Condition("SGD", False, _of(torch.optim.SGD, lr=1.0), _NSR),
    Condition("SGD with momentum", False, _of(torch.optim.SGD, lr=0.1, momentum=0.9), _NSR),
)


def measure(conditions: tuple[Condition, ...] = CONDITIONS) -> pd.DataFrame:
    """Each condition on 8 bandits of 12 arms, 4 of them correct, 60 batches of 8 draws, float64.

    Columns name, holds, drift: the greatest |Δ log(π_u/π_v)| of two correct arms over bandits, in nats; moved: the
    greatest |Δ log(π_u/π_v)| of a correct and a wrong arm, for scale.
    """
    rows = []
    for condition in conditions:
        before, after = _train(condition)
        change = after - before
        rows.append(
            {
                "name": condition.name,
                "holds": condition.holds,
                "drift": _spread(change[:, :CORRECT], change[:, :CORRECT]),
                "moved": _spread(change[:, :CORRECT], change[:, CORRECT:]),
            }
        )
    return pd.DataFrame(rows)


def _spread(one: Tensor, other: Tensor) -> float:
    return float((one[:, :, None] - other[:, None, :]).abs().max())


def _train(condition: Condition) -> tuple[Tensor, Tensor]:
    """log π before and after, (SEEDS, ARMS); correct arms first. Each bandit has an optimiser of its own."""
    g = torch.Generator().manual_seed(0)
    start = torch.randn(SEEDS, ARMS, generator=g, dtype=torch.float64)
    correct = (torch.arange(ARMS) < CORRECT).expand(SEEDS, ARMS)
    contexts = list(range(SEEDS))
    blocks = [contexts] if condition.one_matrix else [[context] for context in contexts]
    shape = (SEEDS, ARMS) if condition.one_matrix else (ARMS,)
    parameters = [torch.nn.Parameter(start[block].reshape(shape)) for block in blocks]
    optimizers = [condition.optimizer([parameter]) for parameter in parameters]
    for _ in range(STEPS):
        logits = _stacked(parameters)
        probs = logits.softmax(-1)
        arms = draw(probs, torch.rand(SEEDS, GROUP, generator=g, dtype=torch.float64))
        right = correct.gather(-1, arms)
        flips = torch.rand(SEEDS, GROUP, generator=g, dtype=torch.float64) < condition.label_noise
        rewards = (right & ~flips).double()
        advantages = condition.objective.advantages(rewards.flatten(), GROUP).view(SEEDS, GROUP)
        old = probs.log().gather(-1, arms)
        for _ in range(condition.reuse):
            logits = _stacked(parameters)
            now = logits.log_softmax(-1).gather(-1, arms)
            weights = condition.objective.weights(TokenBatch(now, old, advantages)).weight
            direction = Bandit(logits).sampled_score(arms, weights) / GROUP
            if condition.entropy_bonus:
                pi = logits.softmax(-1)
                entropy = torch.special.entr(pi).sum(-1, keepdim=True)
                direction = direction - condition.entropy_bonus * pi * (pi.log() + entropy)
            for block, parameter, optimizer in zip(blocks, parameters, optimizers, strict=True):
                if bool(direction[block].any()):  # nothing wrong was drawn: no update
                    parameter.grad = -direction[block].reshape(shape)
                    if condition.max_norm is not None:
                        torch.nn.utils.clip_grad_norm_([parameter], condition.max_norm)
                    if condition.max_value is not None:
                        torch.nn.utils.clip_grad_value_([parameter], condition.max_value)
                    optimizer.step()
    return start.log_softmax(-1), _stacked(parameters).log_softmax(-1)


def _stacked(parameters: list[torch.nn.Parameter]) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1, ARMS) for parameter in parameters])


def measure_expected_gradients() -> dict[str, float]:
    """‖E g_PSR − E g_NSR‖ / ‖E g_PSR‖ over the bandits at the start, by form."""
    start = torch.randn(SEEDS, ARMS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bandit, right = Bandit(start), (torch.arange(ARMS) < CORRECT).double().expand(SEEDS, ARMS)
    gaps = {}
    for form in ("ratio", "probability"):
        factor = bandit.log_probs().exp() if form == "probability" else torch.ones_like(start)
        psr, nsr = (bandit.expected_score(weights * factor) for weights in (right, right - 1))
        gaps[form] = float((psr - nsr).norm() / psr.norm())
    return gaps


def measure_tree() -> dict[str, float]:
    """NSR with Adam on a tree of depth 2: how far the distribution of the correct leaves drifts, in nats.

    conditional: given one first token; joint: over first tokens.
    """
    g = torch.Generator().manual_seed(0)
    tree = Tree.random(4, 2, batch=(SEEDS,), generator=g)
    leaves = tree.enumerate()
    last = [i for i, y in enumerate(leaves) if len(y) == 2]
    right = torch.tensor([len(y) == 2 and y[1] in (1, 2) for y in leaves])
    before = tree.log_probs()
    parameter = torch.nn.Parameter(tree.parameters)
    optimizer = torch.optim.Adam([parameter], lr=_RATE, eps=_NO_EPSILON)
    for _ in range(STEPS):
        now = tree.with_parameters(parameter.detach())
        draws = now.sample(torch.rand(SEEDS, GROUP, 2, generator=g, dtype=torch.float64))
        weights = right[draws.response].double() - 1
        parameter.grad = -now.sampled_score(draws, weights[..., None].expand(SEEDS, GROUP, 2)) / GROUP
        optimizer.step()
    change = tree.with_parameters(parameter.detach()).log_probs() - before
    by_first = {first: [i for i in last if right[i] and leaves[i][0] == first] for first in range(END + 1, 4)}
    conditional = max(_spread(change[:, group], change[:, group]) for group in by_first.values())
    joint = [i for i in last if right[i]]
    return {"conditional": conditional, "joint": _spread(change[:, joint], change[:, joint])}


_PAGE = """\
# Adam's conservation law

<!-- Generated by `python -m docs.generators`; do not edit. -->

**Claim.** Consider one softmax context that is trained by NSR. Correct arms never receive a weight of their own.
Suppose that the optimiser treats each coordinate separately, depends only on the history of that coordinate's gradient,
and does not depend on its scale. Then the relative probabilities of the correct arms never change. This holds whatever
is sampled, however often a batch is reused, with or without PPO's clip of the ratio, and in either form of the
objective. The same is true of wrong arms under PSR.

**Derivation.** A batch moves the logits along g_v = Σ_(i: y_i = v) w_i − π_v Σ_i w_i. An arm v that never receives a
weight has g_v = a·π_v with a = −Σ_i w_i, and a is the same for all such arms. Let u and v be two of them, and suppose
that their ratio ρ = π_v/π_u has been constant up to step t. Then their gradient histories are proportional: g_(s,v) =
ρ·g_(s,u) for all s ≤ t. Let the update be a function U of the history with U(ρ·history) = U(history) for every ρ > 0.
It moves both logits by the same amount, so π_v/π_u is still ρ after step t, and by induction it is ρ forever. Adam with
ε = 0 is such a U, because m̂/√v̂ is homogeneous of degree 0. So are AMSGrad, NAdam, Adamax, RMSprop, Adagrad, Rprop,
Lion and sign descent. Minibatches, the clip of the ratio and the probability form change a and leave the argument as it
is. Clipping by the global norm multiplies every gradient by one factor.

SGD moves logits by a·π_v, which is more for the more probable arm. From the same gradients it sharpens the distribution
given that the response is correct. (In the log or ratio form its expected flow, of infinitely small steps, conserves
e^(−z_u) − e^(−z_v).)

**What it explains.** In the log or ratio form, on-policy, without a clip and with a fixed divisor, PSR and NSR have the
same expected gradient: here ‖E g_PSR − E g_NSR‖ / ‖E g_PSR‖ is {ratio}. There the two differ on the table through an
interaction of sampling noise with the optimiser alone. In the probability form (Eq. 6) the expected gradients differ,
here that quotient is {probability}, and so do the methods without any noise.

**What breaks it:**

- an ε that is not small compared with |g|;
- clipping the gradient by value, which takes more from the larger coordinate (here {by_value} nats);
- anything that gives a correct arm a weight of its own: label noise, W-REINFORCE, GRPO, an entropy bonus, weight decay;
- optimisers that depend on the scale of the gradient, such as SGD;
- optimisers that couple coordinates, such as Adafactor with factored second moments, where contexts are rows of one
  matrix (on a vector Adafactor only multiplies the step by common factors);
- parameters that contexts share. On a tree of two levels the distribution of the last token given the first is
  conserved, and the distribution over whole responses is not.

## Measured

{setup}

| NSR with | prediction | drift of correct arms, nats | correct against wrong arms moved by, nats |
|:--|:--|--:|--:|
{rows}
| Adam on a tree: last token given the first | conserved | {conditional} | |
| Adam on a tree: whole responses | broken | {joint} | |
"""


def conservation_page() -> str:
    """docs/conservation.md as text."""
    table, tree, gaps = measure(), measure_tree(), measure_expected_gradients()
    by_value = table.set_index("name")["drift"][f"Adam, gradient clipped by value at {_CLIP_VALUE:g}"]
    shown = {"by_value": _number(by_value)} | {form: _number(gap).replace("< ", "below ") for form, gap in gaps.items()}
    lines = []
    for _, row in table.iterrows():
        says = "conserved" if row["holds"] else "broken"
        lines.append(f"| {row['name']} | {says} | {_number(row['drift'])} | {row['moved']:.2f} |")
    setup = (
        f"{SEEDS} bandits of {ARMS} arms, {CORRECT} of them correct, {STEPS} batches of {GROUP} draws, float64, seed "
        "0. The drift is the greatest change of\nlog(π_u/π_v) over pairs of correct arms and over bandits."
    )
    return _PAGE.format(setup=setup, rows="\n".join(lines), **shown, **{k: _number(v) for k, v in tree.items()})


def _number(value: float) -> str:
    """Rounding noise is not shown digit by digit: it differs between machines."""
    return "< 1e-9" if value < 1e-9 else f"{value:.0e}" if value < 1e-3 else f"{value:.2f}"
