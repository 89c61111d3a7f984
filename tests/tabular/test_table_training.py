"""Training of the toys against a plain loop: one seed at a time, autograd of the loss, the optimisers of torch."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from analysis.errors import UsageError
from analysis.objectives import TokenBatch, get
from analysis.tabular.table_optimizer import TABLE_OPTIMIZERS, TableOptimizer
from analysis.tabular.table_training import TableSettings, train_table
from toy_models import Bandit, LogLinear, Tree

SEEDS, PROMPTS, GROUP, STEPS = 2, 3, 4, 3
# a few hundred float64 operations; Adam divides by √v̂, which magnifies rounding of small gradients
CLOSE = {"rtol": 1e-8, "atol": 1e-10}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def bandit():
    return Bandit(torch.randn(SEEDS, PROMPTS, 5, generator=generator(), dtype=torch.float64))


def loglinear():
    features = torch.randn(PROMPTS, 5, 4, generator=generator(1), dtype=torch.float64)
    return LogLinear(features, torch.randn(SEEDS, 4, generator=generator(), dtype=torch.float64))


def tree():
    return Tree.random(3, 3, batch=(SEEDS, PROMPTS), generator=generator())


TOYS = {"bandit": bandit, "loglinear": loglinear, "tree": tree}
OBJECTIVES = {
    "dro": get("dro-token", tau=0.5),
    "psr": get("psr-ratio", clip_high=0.2),
    "nsr": get("nsr-ratio", clip_low=0.2),
    "eq6": get("nsr", form="probability"),
    "log": get("w-reinforce", lambda_=0.1, form="log"),
    "grpo": get("grpo", clip_low=0.2, clip_high=0.2),
}


def correct_of(policy):
    return torch.rand(policy.log_probs().shape[1:], generator=generator(5)) < 0.4


def of_seed(policy, seed):
    if isinstance(policy, LogLinear):
        return LogLinear(policy.features, policy.theta[seed])
    if isinstance(policy, Tree):
        return Tree(tuple(level[seed] for level in policy.levels))
    return Bandit(policy.logits[seed])


def token_rows(policy, draws, parameters):
    """log π of the drawn tokens (P, G, T), with gradients, and their mask."""
    moved = policy.with_parameters(parameters)
    if isinstance(policy, Tree):
        return moved.token_log_probs(draws), torch.stack(draws.alive, -1)
    lp = moved.log_probs().gather(-1, draws)[..., None]
    return lp, torch.ones_like(lp, dtype=torch.bool)


def make_optimizer(settings, parameter):
    lr = settings.lr
    return {
        "sgd": lambda: torch.optim.SGD([parameter], lr=lr),
        "momentum": lambda: torch.optim.SGD([parameter], lr=lr, momentum=0.9),
        "adam": lambda: torch.optim.Adam([parameter], lr=lr),
    }[settings.optimizer]()


def plain_training(policy, correct, settings, uniforms):
    """One seed: p after each step, from losses and torch.optim; minibatches row by row."""
    parameter = torch.nn.Parameter(policy.parameters.clone())
    optimizer = make_optimizer(settings, parameter)
    out, made, weighted, clipped = [policy.success(correct)], 0, 0, 0
    low, high = (settings.objective.parameters.get(name) for name in ("clip_low", "clip_high"))
    for u in uniforms:
        now = policy.with_parameters(parameter.detach().clone())
        draws = now.sample(u) if isinstance(policy, Tree) else now.sample(u[..., 0])
        response = draws.response if isinstance(policy, Tree) else draws
        rewards = correct.gather(-1, response).double()
        a = settings.objective.advantages(rewards.flatten(), GROUP).view(rewards.shape)
        old, mask = token_rows(policy, draws, parameter.detach())
        order = [(p, g) for g in range(GROUP) for p in range(PROMPTS)]
        if settings.rows == "drop":
            order = [(p, g) for p, g in order if a[p, g] != 0]
        size = -(-PROMPTS * GROUP // settings.updates)
        for start in list(range(0, len(order), size)) * settings.passes:
            rows = order[start : start + size]
            lp, _ = token_rows(policy, draws, parameter)
            loss = torch.zeros((), dtype=torch.float64)
            for p, g in rows:
                length = int(mask[p, g].sum())
                row = TokenBatch(lp[p, g].detach()[None], old[p, g][None], a[p, g][None])
                one = settings.objective.loss(lp[p, g][None], row)
                one = (one[0] * mask[p, g]).sum() / (length if settings.length_mean else 1)
                loss = loss + one / len(rows) * PROMPTS
                ratios = (lp[p, g] - old[p, g]).exp()[mask[p, g]].tolist()
                weighted += length * bool(a[p, g] != 0)
                clipped += sum(
                    (a[p, g] > 0 and high is not None and ratio > 1 + high)
                    or (a[p, g] < 0 and low is not None and ratio < 1 - low)
                    for ratio in ratios
                )
            if isinstance(policy, LogLinear):
                loss = loss / PROMPTS
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            made += 1
        out.append(policy.with_parameters(parameter.detach()).success(correct))
    return torch.stack(out), made, float(clipped) / max(weighted, 1)


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize(
    ("name", "optimizer", "updates", "passes", "rows", "length_mean"),
    [
        ("psr", "adam", 1, 1, "keep", False),
        ("psr", "sgd", 4, 1, "drop", True),
        ("nsr", "adam", 4, 1, "drop", False),
        ("nsr", "sgd", 1, 4, "keep", False),
        ("eq6", "momentum", 2, 1, "keep", True),
        ("log", "sgd", 2, 1, "keep", False),
        ("grpo", "adam", 1, 4, "drop", False),
        ("grpo", "adam", 4, 1, "keep", False),
        ("grpo", "momentum", 2, 2, "drop", False),
        ("dro", "sgd", 2, 2, "keep", True),
    ],
)
def test_against_a_plain_loop(toy, name, optimizer, updates, passes, rows, length_mean):
    policy = TOYS[toy]()
    correct = correct_of(policy)
    settings = TableSettings(
        OBJECTIVES[name],
        optimizer,
        0.5 if optimizer != "adam" else 0.1,
        group_size=GROUP,
        updates=updates,
        passes=passes,
        rows=rows,
        length_mean=length_mean,
        steps=STEPS,
        eval_every=1,
    )
    history = train_table(policy, correct, settings, generator(9))
    width = policy.depth if isinstance(policy, Tree) else 1
    g = generator(9)
    shape = (SEEDS, PROMPTS, GROUP, width)
    uniforms = [torch.rand(shape, generator=g, dtype=torch.float64) for _ in range(STEPS)]
    for seed in range(SEEDS):
        success, made, clipped = plain_training(of_seed(policy, seed), correct, settings, [u[seed] for u in uniforms])
        torch.testing.assert_close(history.success[:, seed], success, **CLOSE)
        assert history.updates[-1, seed] == made
        torch.testing.assert_close(history.clipped[-1, seed], torch.tensor(clipped, dtype=torch.float64))
    assert (history.success[-1] - history.success[0]).abs().max() > 1e-3  # something was learnt


@pytest.mark.parametrize("name", [n for n in TABLE_OPTIMIZERS if n != "lion"])
def test_optimizers_are_those_of_torch_and_leave_resting_seeds_alone(name):
    g = generator()
    start = torch.randn(2, 3, generator=g, dtype=torch.float64)
    gradients = torch.randn(5, 2, 3, generator=g, dtype=torch.float64)
    moving = torch.tensor([[True, True], [True, False], [True, True], [False, False], [True, True]])
    ours, optimizer = start.clone(), TableOptimizer(name, 0.1)
    for gradient, moves in zip(gradients, moving, strict=True):
        ours = ours + optimizer.step(gradient, moves)
    for seed in range(2):
        parameter = torch.nn.Parameter(start[seed].clone())
        theirs = make_optimizer(TableSettings(get("psr-ratio"), name, 0.1), parameter)
        for gradient, moves in zip(gradients, moving, strict=True):
            if moves[seed]:
                parameter.grad = -gradient[seed]
                theirs.step()
        torch.testing.assert_close(ours[seed], parameter.detach(), rtol=1e-10, atol=1e-12)


def test_lion_leaves_resting_seeds_alone():
    """A seed that rests in between makes the steps of one that did not have the gradients in between."""
    gradients = torch.randn(4, 2, 3, generator=generator(), dtype=torch.float64)
    both, alone = TableOptimizer("lion", 0.1), TableOptimizer("lion", 0.1)
    for i, gradient in enumerate(gradients):
        step = both.step(gradient, torch.tensor([True, i != 1]))
        if i == 1:
            assert not step[1].any()
        else:
            assert torch.equal(step[1], alone.step(gradient[1:], torch.tensor([True]))[0])


def test_lion_by_hand():
    optimizer, moves = TableOptimizer("lion", 0.5), torch.tensor([True])
    first, second = torch.tensor([[1.0, -2.0]]), torch.tensor([[-0.05, -3.0]])
    assert optimizer.step(first, moves).tolist() == [[0.5, -0.5]]
    # m = 0.01·g: 0.9·0.01 − 0.1·0.05 = 0.004 > 0
    assert optimizer.step(second, moves).tolist() == [[0.5, -0.5]]


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(
    ("reuse", "rows"), [({"updates": 4}, "keep"), ({"updates": 4}, "drop"), ({"passes": 4}, "drop")]
)
def test_expectations_are_the_limit_of_large_groups(toy, name, reuse, rows):
    """One batch of many responses and its four updates, against their expectation."""
    policy = TOYS[toy]()
    correct = correct_of(policy)
    group = 4000
    shared = {"optimizer": "sgd", "lr": 0.3, **reuse, "rows": rows, "steps": 1, "eval_every": 1}
    exact = train_table(policy, correct, TableSettings(OBJECTIVES[name], group_size=None, **shared), generator())
    drawn = train_table(policy, correct, TableSettings(OBJECTIVES[name], group_size=group, **shared), generator())
    # p moves by up to 0.3 in four updates of group/4 responses each: Monte Carlo errors of about 1/√1000 of that. The
    # last update of a step is a partial one, of the same mean
    assert (exact.success[-1] - exact.success[0]).abs().max() > 0.02
    torch.testing.assert_close(exact.success[-1], drawn.success[-1], rtol=0, atol=0.02)
    # an arm whose ratio lies next to a clip falls on either side of it with all its rows
    torch.testing.assert_close(exact.clipped[-1], drawn.clipped[-1], rtol=0, atol=0.1)


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("optimizer", TABLE_OPTIMIZERS)
def test_in_expectation_psr_and_nsr_make_one_run(toy, optimizer):
    policy = TOYS[toy]()
    correct = correct_of(policy)
    runs = [
        train_table(policy, correct, TableSettings(get(n), optimizer, 0.1, group_size=None, steps=20), generator())
        for n in ("psr-ratio", "nsr-ratio")
    ]
    torch.testing.assert_close(runs[0].success, runs[1].success, rtol=0, atol=1e-9)
    torch.testing.assert_close(runs[0].entropy, runs[1].entropy, rtol=0, atol=1e-8)
    eq6 = train_table(
        policy,
        correct,
        TableSettings(get("psr", form="probability"), optimizer, 0.1, group_size=None, steps=20),
        generator(),
    )
    assert (eq6.success - runs[0].success).abs().max() > 1e-3


def test_what_the_history_holds():
    policy = bandit()
    correct = correct_of(policy)
    settings = TableSettings(get("psr-ratio"), "sgd", 0.5, steps=5, eval_every=2)
    history = train_table(policy, correct, settings, generator())
    assert history.steps.tolist() == [0, 2, 4, 5]
    assert history.updates[:, 0].tolist() == [0, 2, 4, 5]
    law = policy.logits.softmax(-1)
    given = torch.where(correct, law, 0.0) / (law * correct).sum(-1, keepdim=True)
    torch.testing.assert_close(history.success[0], (law * correct).sum(-1))
    torch.testing.assert_close(history.entropy[0], -(law * law.log()).sum(-1))
    torch.testing.assert_close(history.entropy_correct[0], torch.special.entr(given).sum(-1))
    assert history.kl[0].abs().max() < 1e-12
    assert (history.kl[-1] > 0).all()


@pytest.mark.parametrize("optimizer", ["adam", "lion"])
def test_precision_does_not_decide_where_a_group_s_weights_cancel(optimizer):
    """GRPO on arms that are rarely drawn: float32 makes the run of float64."""
    z = 2 * torch.randn(2, 8, 40, generator=generator(), dtype=torch.float64)
    correct = torch.rand(8, 40, generator=generator(5)) < 0.4
    settings = TableSettings(get("grpo"), optimizer, 0.03, group_size=8, steps=20)
    single, double = (train_table(Bandit(one), correct, settings, generator()).entropy for one in (z.float(), z))
    torch.testing.assert_close(single, double, rtol=0, atol=1e-4)
    assert (double[-1] - double[0]).abs().max() > 0.1


def test_bad_settings():
    policy = bandit()
    good = {"objective": get("psr-ratio")}
    for change, message in (
        ({"optimizer": "adamw"}, "optimizer: expected one of sgd, momentum, adam, lion, got 'adamw'"),
        ({"rows": "lose"}, "rows: expected keep or drop, got 'lose'"),
        ({"group_size": 0}, "group_size: expected at least 1, or None for the expectation, got 0"),
        ({"lr": 0.0}, "lr: expected a positive number, got 0"),
        ({"lr": float("nan")}, "lr: expected a positive number, got nan"),
        ({"updates": 0}, "updates, passes, steps, eval_every: expected at least 1, got 0, 1, 200, 5"),
        ({"passes": 0}, "updates, passes, steps, eval_every: expected at least 1, got 1, 0, 200, 5"),
        ({"objective": get("grpo", advantage="batch_mean_std")}, "objective: expected advantages by response"),
    ):
        with pytest.raises(UsageError, match=message):
            train_table(policy, correct_of(policy), TableSettings(**{**good, **change}), generator())
    with pytest.raises(ValueError, match=r"correct: expected a shape that broadcasts to the responses \(2, 3, 5\)"):
        train_table(policy, torch.ones(3, 4, dtype=torch.bool), TableSettings(get("psr-ratio")), generator())
    with pytest.raises(UsageError, match="it needs a group of at least 2, got 1"):
        train_table(policy, correct_of(policy), TableSettings(get("grpo"), group_size=1), generator())
    with pytest.raises(UsageError, match="policy: expected a seed and a prompt axis"):
        train_table(Bandit(torch.zeros(3, 4)), correct_of(policy)[0], TableSettings(get("psr-ratio")), generator())
    for size in (8, None):
        wild = TableSettings(get("psr-ratio"), lr=1e39, group_size=size)
        with pytest.raises(UsageError, match=r"lr: the parameters left the finite numbers .*; lower the learning rate"):
            train_table(Bandit(policy.logits.float()), correct_of(policy), wild, generator())


def test_adam_conserves_what_never_receives_a_weight_of_its_own():
    """Correct arms under NSR keep their relative probabilities through sampling, reuse and clipping (ε is negligible);
    under SGD they do not."""
    policy = bandit()
    correct = torch.tensor([True, True, True, False, False])
    for optimizer, conserved in (("adam", True), ("sgd", False)):
        settings = TableSettings(get("nsr-ratio", clip_low=0.2), optimizer, 0.1, group_size=8, updates=4, steps=10)
        history = train_table(policy, correct, settings, generator())
        moved = (history.entropy_correct[-1] - history.entropy_correct[0]).abs().max()
        assert bool(moved < 1e-6) is conserved


@pytest.mark.parametrize("kind", [bandit, loglinear, tree])
def test_expectations_of_weights_that_are_no_multiple_of_the_advantage(kind: Any) -> None:
    """Wrong and correct responses apart give what one pass gives, where a weight is such a multiple; NFT trains too."""
    policy = kind()
    correct = correct_of(policy)

    def last(objective: Any) -> torch.Tensor:
        settings = TableSettings(objective, "sgd", 0.5, group_size=None, updates=2, steps=5)
        return train_table(policy, correct, settings, generator()).success[-1]

    cispo = get("cispo", clip_high=0.1)
    apart = dataclasses.replace(cispo, entry=dataclasses.replace(cispo.entry, homogeneous=False))
    torch.testing.assert_close(last(apart), last(cispo), rtol=1e-10, atol=1e-12)
    assert (last(get("nft")).mean() > policy.success(correct).mean()).all()
