"""Running cells: every method in every cell, on the problem of every seed at once.

Learning rates hold the expected first step fixed as far as a constant can: W-REINFORCE is divided by 1 + λ and
REINFORCE by 2 (their expected gradients are those multiples of ∇p), GRPO multiplied by √(p(1−p)) at the base; the
probability form, whose weights carry π_y, is multiplied by the ratio of the two forms' expected gradient norms at the
base. Adam and Lion do not see such constants.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from toy_models.exact.success import pass_at_k
from toy_models.exact.tree import Tree
from toy_models.messages import nearest

from ..common.randomness import seed_of
from ..errors import UsageError
from ..objectives import Objective, get
from ..objectives.user_losses import registered
from ..tabular.table_training import TableHistory, TableSettings, train_table
from .factors import POLICIES, Cell, cell_name, factors_of
from .problems import Problem, make_problem

__all__ = ["BASELINES", "METHODS", "CellRun", "Cells", "run_cells"]

# The methods that are compared unless others are named.
METHODS = ("PSR", "NSR", "W-REINFORCE", "REINFORCE", "GRPO")
LAMBDA = 0.1  # of W-REINFORCE, as in the paper
# A constant baseline b gives a correct response the weight 1 − b and a wrong one −b: PSR is b = 0, NSR b = 1. Up to a
# factor that is W-REINFORCE with λ = (1 − b)/b, so the paper's λ = 0.1 is b = 0.91, and REINFORCE is b = 0.5.
BASELINES = {"baseline 0.25": 3.0, "baseline 0.75": 1 / 3}
# Times `lr_scale`. At 1 exact PSR goes from p = 0.35 to 0.75 in about 100 steps, and no ratio ever leaves [0.8, 1.2].
RATES = {"sgd": 0.2, "momentum": 0.02, "adam": 0.012, "lion": 0.006}
_LOGLINEAR_RATE = {"sgd": 20.0, "momentum": 20.0, "adam": 1.0, "lion": 1.0}  # gradients are means over prompts there
_PASSES = 4  # over the rows of one batch, where it is reused
_CLIP = 0.2


@dataclass(frozen=True)
class Cells:
    """What is run: the policy and its size, the methods and the settings that all cells share."""

    policy: str = "bandit"
    methods: tuple[str, ...] = METHODS
    seeds: int = 20
    prompts: int = 256
    arms: int = 40
    steps: int = 200
    group_size: int = 8
    optimizer: str = "adam"  # what the factor `optimizer` switches on
    lr_scale: float = 4.0
    eval_every: int = 1  # four passes at the full rate cross all levels of Pass@1 within a few steps
    seed: int = 0

    def problem(self) -> Problem:
        return make_problem(self.policy, seeds=self.seeds, prompts=self.prompts, arms=self.arms, seed=self.seed)


@dataclass(frozen=True)
class CellRun:
    """One method in one cell: means over prompts at each evaluation E, for every seed S."""

    cell: str
    method: str
    steps: np.ndarray  # (E,)
    updates: np.ndarray  # (E, S)
    values: dict[str, np.ndarray]  # pass@1, pass@8, entropy, entropy_correct, kl, p_std, clipped: (E, S)


def run_cells(jobs: Sequence[tuple[Cell, str]], settings: Cells, *, workers: int = 1) -> Iterator[CellRun]:
    """Train methods in cells, (cell, method) each; the results in that order, as they come.

    With several workers each has a process of its own with one thread; results do not depend on their number.
    Raises UsageError for a cell that does not exist, an unknown optimiser, and for several workers and a method that
    `objectives.register` named in this process alone.
    """
    _check(jobs, settings)
    here = [method for _, method in jobs if registered(method)]
    if here and workers > 1:
        raise UsageError(
            f"methods: {here[0]!r} is registered in this process alone, and workers have their own; "
            f"name it file.py:{here[0]}, or take workers = 1"
        )
    if workers == 1 or len(jobs) < 2:
        problem = settings.problem()
        for cell, method in jobs:
            yield _run(cell, method, settings, problem)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(settings,)) as pool:
        futures = [pool.submit(_run_here, cell, method) for cell, method in jobs]
        try:
            for future in futures:
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check(jobs: Sequence[tuple[Cell, str]], settings: Cells) -> None:
    if settings.optimizer not in RATES:
        raise UsageError(f"optimizer: expected one of {', '.join(RATES)}, got {settings.optimizer!r}")
    if settings.policy not in POLICIES:
        raise UsageError(f"policy: expected one of {', '.join(POLICIES)}, got {settings.policy!r}")
    factors = {factor.name: factor for factor in factors_of(settings.policy)}
    for cell in {cell for cell, _ in jobs}:
        for name in sorted(cell):
            if name not in factors:
                raise UsageError(f"jobs: a cell of {settings.policy} has no factor {name!r}; {nearest(name, factors)}")
            need = factors[name].needs
            if need is not None and need not in cell:
                raise UsageError(f"jobs: the factor {name} needs {need} to be on, got {'+'.join(sorted(cell))}")


_here: dict[str, tuple[Cells, Problem]] = {}  # of a worker process: its problem, made once


def _start(settings: Cells) -> None:
    torch.set_num_threads(1)
    _here["all"] = settings, settings.problem()


def _run_here(cell: Cell, method: str) -> CellRun:
    settings, problem = _here["all"]
    return _run(cell, method, settings, problem)


def _run(cell: Cell, method: str, settings: Cells, problem: Problem) -> CellRun:
    table = _table_settings(cell, method, settings, problem)
    generator = torch.Generator().manual_seed(seed_of(settings.seed, f"ladder {settings.policy} rollouts"))
    history = train_table(problem.policy, problem.correct, table, generator)
    return CellRun(cell_name(cell), method, history.steps.numpy(), history.updates.numpy(), _means(history))


def _means(history: TableHistory) -> dict[str, np.ndarray]:
    p = history.success.clamp(max=1.0)
    values = {
        "pass@1": p.mean(-1),
        "pass@8": pass_at_k(p, 8).mean(-1),
        "entropy": history.entropy.mean(-1),
        "entropy_correct": history.entropy_correct.mean(-1),
        "kl": history.kl.mean(-1),
        "p_std": p.std(-1),
        "clipped": history.clipped,
    }
    return {name: value.double().numpy() for name, value in values.items()}


def _table_settings(cell: Cell, method: str, settings: Cells, problem: Problem) -> TableSettings:
    optimizer = settings.optimizer if "optimizer" in cell else "sgd"
    form = "probability" if "form" in cell else "ratio"
    objective = _objective(method, form, clip="clip" in cell)
    rate = settings.lr_scale * RATES[optimizer]
    if settings.policy == "loglinear":
        rate *= _LOGLINEAR_RATE[optimizer]
    if optimizer in ("sgd", "momentum"):
        rate *= _scale(method, problem)
        if form == "probability" and method in (*METHODS, *BASELINES):
            rate *= _form_scale(problem)
    if "reuse" in cell and "rate" not in cell:
        rate /= _PASSES
    return TableSettings(
        objective,
        optimizer,
        rate,
        group_size=settings.group_size if "noise" in cell else None,
        passes=_PASSES if "reuse" in cell else 1,
        rows="drop" if "drop" in cell else "keep",
        length_mean="length" in cell,
        steps=settings.steps,
        eval_every=settings.eval_every,
    )


def _objective(method: str, form: str, *, clip: bool) -> Objective:
    if method not in (*METHODS, *BASELINES):  # has no forms: the same in every cell
        return get(method)
    clips = {"clip_low": _CLIP, "clip_high": _CLIP} if clip else {}
    lambda_ = {"W-REINFORCE": LAMBDA, **BASELINES}.get(method)
    name = "w-reinforce" if lambda_ is not None else method.lower()
    return get(name, form=form, lambda_=lambda_, **clips)


def _scale(method: str, problem: Problem) -> float:
    p = problem.policy.success(problem.correct)
    spread = float((p * (1 - p)).sqrt().mean())
    family = {name: 1 / (1 + lambda_) for name, lambda_ in ({"W-REINFORCE": LAMBDA} | BASELINES).items()}
    return (family | {"REINFORCE": 0.5, "GRPO": spread}).get(method, 1.0)


def _form_scale(problem: Problem) -> float:
    """‖E[A s]‖ / ‖E[A·Σ_t π_t s_t]‖ at the base, for PSR and NSR together."""
    policy, right = problem.policy, problem.correct.to(problem.policy.parameters.dtype)
    norms = []
    for weights in (right, right - 1):
        if isinstance(policy, Tree):
            factors = [level.softmax(-1) for level in policy.levels]
            forms = policy.expected_score(weights), policy.expected_score(weights, factors)
        else:
            forms = policy.expected_score(weights), policy.expected_score(weights * policy.log_probs().exp())
        norms.append([float(form.norm()) for form in forms])
    (a, b), (c, d) = norms
    return (a + c) / (b + d)
