"""What verl's update of fixed rollouts is, in float64 and without verl: the policy gradient by its formulas.

A response at a time goes through transformers' model in float64, without packing or padding. With ρ = exp(log π − old),

    ℓ = max(−Aρ, −A·clip(ρ, 0.8, 1.2)), for A < 0 at most −3A          ("vanilla", dual clip)
    L = Σ ℓ / N − c_H · Σ H / N + c_KL · Σ k / N       over the tokens in the loss, N their number

or N the number of sequences. k is the estimator k3, or (log π − ref) with the gradient of half its square.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .observed_program import Case, temperature_of

LOW, HIGH, DUAL = 0.2, 0.2, 3.0


@dataclass
class OracleUpdate:
    """Tokens in the loss, by (rollout, position): weights, log π, entropy, clip; and the norm of the gradient."""

    tokens: dict[tuple[int, int], dict[str, float]]
    gradient_norm: float
    loss: float


def update(case: Case, model: Path, parameters: dict[str, Tensor], rows: list[dict[str, Any]]) -> OracleUpdate:
    """One update on one minibatch of `rows`, whose numbers in the step are `row["number"]`."""
    from transformers import LlamaForCausalLM

    policy = LlamaForCausalLM.from_pretrained(model, dtype=torch.float64, attn_implementation="eager")
    policy.load_state_dict({name: value.double() for name, value in merged(parameters).items()})
    actor = case.actor
    tokens, terms, kept = [], [], []
    count = sum(int(row["response_mask"].sum()) for row in rows)
    size = float(len(rows)) if actor.get("loss_agg_mode") == "seq-mean-token-sum" else float(count)
    for row in rows:
        prompt, length = len(row["prompts"]), len(row["responses"])
        mask = row["response_mask"].bool()
        if not mask.any():
            continue
        logits = policy(input_ids=row["input_ids"][None]).logits[0, prompt - 1 : prompt + length - 1]
        every = (logits / temperature_of(case, row)).log_softmax(-1)
        log_probs = every.gather(-1, row["responses"][:, None])[:, 0]
        entropy = -(every.exp() * every).sum(-1)
        log_probs.retain_grad()
        entropy.retain_grad()
        reference = row.get("ref_log_prob", torch.zeros(length)).double().detach()
        kind = actor.get("kl_loss_type", "low_var_kl")
        kl = _kl(kind, log_probs, reference)
        advantage, old = row["advantages"].double(), row["old_log_probs"].double()
        ratio = (log_probs - old).exp()
        losses = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - LOW, 1 + HIGH))
        losses = torch.where(advantage < 0, torch.minimum(losses, -advantage * DUAL), losses)
        coefficient = actor["kl_loss_coef"] if actor.get("use_kl_loss") else 0.0
        terms.append((((losses - case.entropy * entropy) + coefficient * kl) * mask).sum() / size)
        leaf = log_probs.detach().requires_grad_()
        kl_part = torch.autograd.grad(_kl(kind, leaf, reference).sum(), leaf)[0] if coefficient else None
        kept.append((row, mask, log_probs, entropy, ratio.detach(), kl_part, coefficient))
    loss = torch.stack(terms).sum()
    loss.backward()
    for row, mask, log_probs, entropy, ratio, kl_part, coefficient in kept:
        advantage = row["advantages"]
        for position in mask.nonzero()[:, 0].tolist():
            at = float(ratio[position])
            clip = 0
            if (at < 1 - LOW and advantage[position] < 0) or (at > 1 + HIGH and advantage[position] > 0):
                clip = -1 if at < 1 else 1
            elif at > DUAL and advantage[position] < 0:
                clip = 1
            total = -float(log_probs.grad[position])
            part = 0.0 if kl_part is None else -coefficient / size * float(kl_part[position])
            tokens.append(
                (
                    (row["number"], position),
                    {
                        "weight": total - part,
                        "kl_weight": part,
                        "entropy_weight": -float(entropy.grad[position]) if case.entropy else 0.0,
                        "log_prob": float(log_probs.detach()[position]),
                        "entropy": float(entropy.detach()[position]),
                        "ratio": at,
                        "clip": clip,
                        "token": int(row["responses"][position]),
                    },
                )
            )
    norm = torch.stack([p.grad.norm() for p in policy.parameters() if p.grad is not None]).norm()
    return OracleUpdate(dict(tokens), float(norm), float(loss.detach()))


def _kl(kind: str, log_probs: Tensor, reference: Tensor) -> Tensor:
    """k3; or "k1+", whose value is the difference and whose gradient that of half its square."""
    difference = log_probs - reference
    if kind == "k1+":
        square = 0.5 * difference.square()
        return square + (difference - square).detach()
    return (-difference).exp() + difference - 1


def merged(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of the plain model, LoRA's product (alpha/r = 2) added where there is one."""
    plain: dict[str, Tensor] = {}
    for name, value in parameters.items():
        short = name.removeprefix("base_model.model.")
        if ".lora_" in short:
            continue
        if ".base_layer" in short:
            stem = name.removesuffix(".base_layer.weight")
            product = parameters[f"{stem}.lora_B.default.weight"] @ parameters[f"{stem}.lora_A.default.weight"]
            plain[short.replace(".base_layer", "")] = value.double() + 2.0 * product.double()
        else:
            plain[short] = value
    return plain
