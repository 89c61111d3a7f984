"""Which fields of staleness ([rollout]), of token masks and of memory ([update]) go together."""

from __future__ import annotations

from .config import FIELDS, show
from .fields import RunConfig

__all__ = ["update_problems"]


def update_problems(config: RunConfig) -> list[str]:
    """One message for each contradiction, with the fields and a way out."""
    rollout, update = config.rollout, config.update
    stray = [
        f"update.{name}"
        for name in ("mask_low", "mask_high", "mask_norm")
        if getattr(update, name) != FIELDS[f"update.{name}"].default
    ]
    masks = update.token_mask is not None
    rules = [
        *_bfloat16_rules(config),
        (
            update.micro_batch is not None and update.micro_batch_tokens is not None,
            f"update.micro_batch = {update.micro_batch} with update.micro_batch_tokens = {update.micro_batch_tokens}: "
            "both bound a pass, one by its rows and one by its tokens; leave one of them out",
        ),
        (
            rollout.fixed and rollout.refresh_every != 1,
            f"rollout.fixed with rollout.refresh_every = {rollout.refresh_every}: fixed rollouts are all of the base; "
            "leave one of them out",
        ),
        (
            not masks and bool(stray),
            f"{', '.join(stray)} without update.token_mask: no token is masked; set it or leave them out",
        ),
        (
            update.mask_low >= update.mask_high,
            f"update.mask_low = {update.mask_low:g} with update.mask_high = {update.mask_high:g}: no token lies "
            "between them; set mask_low below mask_high",
        ),
        (
            masks and update.mask_low == 0 and update.mask_high == 1,
            f"update.token_mask = {show(update.token_mask)} with update.mask_low = 0 and update.mask_high = 1: every "
            "token is kept; set one of them, or leave update.token_mask out",
        ),
    ]
    return [message for wrong, message in rules if wrong]


def _bfloat16_rules(config: RunConfig) -> list[tuple[bool, str]]:
    """What does not go with bfloat16 weights, whose rounding hides it or makes it idle."""
    if config.policy.dtype != "bfloat16":
        return []
    record, way_out = config.record, 'policy.dtype = "float32" with update.autocast = "bfloat16"'
    return [
        (
            record.contexts > 0,
            f'policy.dtype = "bfloat16" with record.contexts = {record.contexts}: what one update changes at a context '
            "is below the rounding of a forward pass in bfloat16 (docs/how_to/train_a_real_model.md); set "
            f"record.contexts = 0, or {way_out}",
        ),
        (
            record.noise_every > 0,
            f'policy.dtype = "bfloat16" with record.noise_every = {record.noise_every}: exact gradients are measured, '
            f"which bfloat16 rounds; set record.noise_every = 0, or {way_out}",
        ),
        (
            config.update.autocast is not None,
            f'policy.dtype = "bfloat16" with update.autocast = {show(config.update.autocast)}: all matrix products are '
            "in bfloat16 already; leave one of them out",
        ),
        (
            config.rollout.dtype is not None,
            f'policy.dtype = "bfloat16" with rollout.dtype = {show(config.rollout.dtype)}: the policy samples in '
            "bfloat16 itself; leave rollout.dtype out",
        ),
        (
            config.update.estimator == "exact",
            'policy.dtype = "bfloat16" with update.estimator = "exact": an exact gradient needs exact weights; set '
            'policy.dtype = "float32"',
        ),
    ]
