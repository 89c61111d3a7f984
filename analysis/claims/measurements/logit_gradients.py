"""Logit gradients of PSR and NSR by automatic differentiation, against their closed forms (2506.01347, Eqs. 7 and 8).

With R = ±1, both forms of the objective push the sampled token y by w·(e_y − π): w = R·π_y in the probability form
(the paper's Eq. 6), w = R·π_y/π_old,y in the ratio form (the released code).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from toy_models import response_logits

from ...common.randomness import seed_of
from ...objectives import TokenBatch, get
from ..evidence import Progress
from .responses import base_and_task, sampled

__all__ = ["FORMS", "closed_form_errors", "table_errors", "transformer_errors"]

FORMS = ("probability", "ratio")
_RESOLVED = 1e-6  # 1 − π_y from which float64 autograd resolves it to about ten digits


def closed_form_errors(
    logits: Tensor, tokens: Tensor, old_log_probs: Tensor, name: str, form: str, shuffle: torch.Generator
) -> tuple[Tensor, Tensor]:
    """‖autograd − closed form‖ / ‖closed form‖ of each token, and the same with π_v shuffled in the closed form.

    Args:
        logits: (n, V) in float64.
        tokens: (n,) sampled ids.
        old_log_probs: (n,) of the policy that sampled.
        name: "psr" or "nsr".
        form: One of `FORMS`.
        shuffle: Draws the permutations of the null.
    """
    leaf = logits.detach().requires_grad_()
    log_probs = leaf.log_softmax(-1).gather(-1, tokens[:, None])
    sign = 1.0 if name == "psr" else -1.0
    batch = TokenBatch(
        log_probs.detach(), old_log_probs[:, None], torch.full((len(tokens),), sign, dtype=torch.float64)
    )
    (gradient,) = torch.autograd.grad(get(name, form=form).loss(log_probs, batch).sum(), leaf)
    probs = torch.exp(logits - logits.logsumexp(-1, keepdim=True))
    weight = sign * probs.gather(-1, tokens[:, None])
    if form == "ratio":
        weight = weight / old_log_probs[:, None].exp()
    expected, null = (_pushed(p, tokens, weight) for p in (probs, _shuffled(probs, tokens, shuffle)))
    return (
        (-gradient - expected).norm(dim=-1) / expected.norm(dim=-1),
        (-gradient - null).norm(dim=-1) / null.norm(dim=-1),
    )


def table_errors(seed: int = 0) -> float:
    """The greatest relative difference over random tables, both signs and both forms."""
    generator = torch.Generator().manual_seed(seed_of(seed, "gradient_noise"))
    logits = 2 * torch.randn(256, 24, generator=generator, dtype=torch.float64)
    tokens = torch.randint(24, (256,), generator=generator)
    old = (logits + 0.1 * torch.randn(256, 24, generator=generator, dtype=torch.float64)).log_softmax(-1)
    old = old.gather(-1, tokens[:, None])[:, 0]
    return max(
        float(closed_form_errors(logits, tokens, old, name, form, generator)[0].max())
        for name in ("psr", "nsr")
        for form in FORMS
    )


def transformer_errors(
    base: str, seeds: int, progress: Progress, *, prompts: int = 32, group_size: int = 4
) -> dict[tuple[str, str], np.ndarray]:
    """On responses that bases sample to validation prompts, with every layer in float64.

    Tokens whose 1 − π_y is below 1e-6 are left out: float64 has no digits left there, in autograd as in the closed
    form.

    Returns:
        (sign, form) -> per seed the greatest relative difference, the median with shuffled π_v, and the number of
        tokens, (seeds, 3).
    """
    rows: dict[tuple[str, str], list[tuple[float, float, int]]] = {}
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed_of(seed, "gradient_noise"))
        logits, tokens, verdicts = _sampled(base, seed, prompts, group_size, generator)
        old = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        for name, sign in (("psr", True), ("nsr", False)):
            kept = (verdicts == sign) & (-torch.expm1(old) > _RESOLVED)
            for form in FORMS:
                errors, null = closed_form_errors(logits[kept], tokens[kept], old[kept], name, form, generator)
                rows.setdefault((name, form), []).append((float(errors.max()), float(null.median()), int(kept.sum())))
        progress(f"logit gradients of {base}", seed + 1, seeds)
    return {key: np.array(values) for key, values in rows.items()}


def _sampled(
    base: str, seed: int, prompts: int, group_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (n, V) at the tokens of sampled responses, the tokens (n,), and whether their response was correct."""
    policy, task = base_and_task(base, seed)
    policy.model.double()
    drawn = sampled(policy, task, task.prompts("validation")[:prompts], group_size, generator)
    with torch.no_grad():
        logits = response_logits(policy.model, drawn.batch)
    mask = drawn.batch.mask
    return logits[mask], drawn.batch.tokens[mask], drawn.correct[:, None].expand_as(mask)[mask]


def _pushed(probs: Tensor, tokens: Tensor, weight: Tensor) -> Tensor:
    """Eqs. 7 and 8 entry by entry: w·(1 − π_y) at y, −w·π_v elsewhere."""
    own = torch.arange(probs.shape[-1]) == tokens[:, None]
    rest = torch.where(own, 0, probs).sum(-1, keepdim=True)
    return weight * torch.where(own, rest, -probs)


def _shuffled(probs: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """π with the alternatives of each row in another order."""
    own = torch.arange(probs.shape[-1]) == tokens[:, None]
    keys = torch.rand(probs.shape, generator=generator, dtype=torch.float64)
    # y first in both orders, so that it stays where it is
    source = keys.masked_fill(own, -1).argsort(-1)
    target = own.int().argsort(dim=-1, descending=True, stable=True)
    return torch.empty_like(probs).scatter(-1, target, probs.gather(-1, source))
