"""One policy on a list of prompts: the rows of the table `evals` for one evaluation.

Exact where the task can enumerate its correct responses (success probability and effective solutions, all
temperatures from one walk over the prefix tree), from own samples besides (n, c, entropy on own rollouts), greedy
decoding, and the entropy on prefixes fixed once at the start, so that a change there is one of the policy and not of
where it goes. Runs without autograd and changes neither parameters, nor module modes, nor any global generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from toy_models.batching import response_logits, teacher_batch
from toy_models.end_tokens import policy_end_tokens
from toy_models.policy import Policy, evaluation_mode
from toy_models.sampling import Samples
from toy_models.tasks.task import Prompt, Task, mode_prefix
from toy_models.truncation import kept_tokens, truncates

from ..common.batching import check_batching
from ..common.bounded_sampling import bounded_sample
from ..errors import DivergedError, UsageError, first_index
from .enumeration import effective_solutions, tree_log_probs
from .known_solutions import KnownSolutions
from .sampling_params import SamplingParams
from .verdicts import verdicts

__all__ = ["TAIL_RANK", "FixedPrefixes", "evaluate"]

TAIL_RANK = 16  # column tail_mass: mass beyond the 16 most probable tokens, the third edge of the schema's rank buckets
_LOGITS = 1 << 23  # logits held at a time on the fixed prefixes: 32 MB in float32


@dataclass(frozen=True)
class FixedPrefixes:
    """Responses whose every prefix is a context that is followed through training; plain lists, to be saved as such.

    The prefixes of a response are those before each of its tokens. Several rows may belong to one prompt.

    Attributes:
        prompt_ids: prompt of each row.
        prompts: its token ids.
        responses: token ids of the response.
    """

    prompt_ids: list[str]
    prompts: list[list[int]]
    responses: list[list[int]]

    @classmethod
    def from_samples(
        cls,
        policy: Policy,
        task: Task,
        prompts: Sequence[Prompt],
        *,
        generator: torch.Generator,
        samples: int = 1,
        temperature: float = 1.0,
        max_tokens: int | None = None,
    ) -> FixedPrefixes:
        """Draw the responses from a policy, usually the base before the first update.

        Args:
            policy: what draws them.
            task: its longest response ends them.
            prompts: which prompts.
            generator: of the uniforms.
            samples: responses to each prompt.
            temperature: T of softmax(z / T).
            max_tokens: bound of the tokens in memory at a time (`common.bounded_sampling`); None: no bound.
        """
        with _evaluating(policy.model):
            drawn = _own_samples(policy, task, prompts, samples, SamplingParams(temperature), generator, max_tokens)
        owners = [prompt for prompt in prompts for _ in range(samples)]
        return cls([p.prompt_id for p in owners], [list(p.ids) for p in owners], _responses(drawn))


def evaluate(
    policy: Policy,
    task: Task,
    prompts: Sequence[Prompt],
    *,
    fixed: FixedPrefixes,
    temperatures: Sequence[float] = (1.0,),
    top_k: int = 0,
    top_p: float = 1.0,
    samples: int = 4,
    generator: torch.Generator | None = None,
    step: int = 0,
    update: int = 0,
    max_rows: int = 2048,
    max_tokens: int | None = None,
    batch_checked: bool = False,
    known: KnownSolutions | None = None,
) -> dict[str, list[Any]]:
    """Columns of the table `evals`, one row per prompt and temperature (prompt first); `step` and `update` are copied.

    Everything but greedy decoding is of the row's distribution: softmax(z/T), truncated by `top_k` and `top_p`.

    Args:
        policy: the model with its end and padding tokens.
        task: verifies responses, and lists the correct ones where it can.
        prompts: distinct prompts, at least one.
        fixed: prefixes for `entropy_fixed` and `tail_mass`, of each prompt.
        temperatures: one row a prompt for each.
        top_k: keep the k most probable tokens; 0 keeps all.
        top_p: of these keep the nucleus that holds this mass; 1 keeps all.
        samples: responses per prompt, at the first temperature only.
        generator: supplies the uniforms of the samples, prompt by prompt, so that the samples of a prompt do not
            depend on how many prompts follow it.
        step, update: copied into every row.
        max_rows: rows forwarded at a time while the correct responses are walked.
        max_tokens: tokens sampled at a time (`common.bounded_sampling`), which bounds memory; None: all at once.
        batch_checked: whether it is known that the model's numbers for a row do not depend on the rest of its batch, as
            after `analysis.common.batching.check_batching`; unset: it is checked.
        known: correct responses of the task, listed in earlier evaluations; None lists them anew. Changes no number.

    Returns:
        Column name to values. Entropies are means over tokens, in nats. `p` and `effective_solutions` are null where
        the task cannot enumerate its solutions, `effective_solutions` also where the distribution reaches none of
        them, `mode_mass` and `mode_p` where the task names no mode. `n`, `c` and `entropy_own` come from the samples
        and are null at all but the first temperature.

    Raises:
        UsageError: no or repeated prompts, a prompt without fixed prefixes, samples without a generator, temperatures,
            top_k or top_p out of range, or a model whose numbers for a row depend on the rest of its batch.
        DivergedError: the policy's distribution is not finite.

    Cost: the prefix tree, one greedy and `samples` sampled decodings, and one pass over `fixed`.
    """
    ids = [prompt.prompt_id for prompt in prompts]
    if not ids or len(set(ids)) < len(ids):
        raise UsageError(
            f"prompts: expected distinct prompts, at least one, got {len(ids)} of which {len(set(ids))} "
            "are distinct; a row of evals is known by its prompt"
        )
    if samples and generator is None:
        raise UsageError(f"generator: expected a torch.Generator to draw samples = {samples}, got None")
    settings = [SamplingParams(float(t), top_k, top_p) for t in temperatures]
    if not batch_checked:
        check_batching(policy, prompts, max([task.max_new_tokens, *map(len, fixed.responses)]))
    with _evaluating(policy.model):
        exact = _enumerated(policy, task, prompts, settings, max_rows, known or KnownSolutions(task))
        on_fixed = _on_fixed_prefixes(policy, ids, fixed, settings)
        greedy = bounded_sample(
            policy.model,
            [p.ids for p in prompts],
            max_tokens=max_tokens,
            group_size=1,
            max_new_tokens=task.max_new_tokens,
            eos_id=policy_end_tokens(policy),
            pad_id=policy.pad_id,
            temperature=0.0,
        )
        greedy_correct = _verdicts(task, prompts, greedy)
        own: list[tuple[int | None, int | None, float | None]] = [(None, None, None)] * len(ids)
        if generator is not None and samples:
            drawn = _own_samples(policy, task, prompts, samples, settings[0], generator, max_tokens)
            correct = torch.tensor(_verdicts(task, prompts, drawn)).view(-1, samples)
            tokens = drawn.lengths.view(-1, samples).sum(1)
            entropy = drawn.sampling_entropy.double().sum(1).view(-1, samples).sum(1) / tokens
            own = [(samples, c, h) for c, h in zip(correct.sum(1).tolist(), entropy.tolist(), strict=True)]

    rows = [
        {
            "step": step,
            "update": update,
            "prompt_id": prompt.prompt_id,
            "split": prompt.split,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "p": exact[i][j].p,
            "n": own[i][0] if j == 0 else None,
            "c": own[i][1] if j == 0 else None,
            "effective_solutions": exact[i][j].effective_solutions,
            "mode_mass": exact[i][j].mode_mass,
            "mode_p": exact[i][j].mode_p,
            "greedy_correct": greedy_correct[i],
            "entropy_fixed": on_fixed[i][j][0],
            "entropy_own": own[i][2] if j == 0 else None,
            "tail_mass": on_fixed[i][j][1],
        }
        for i, prompt in enumerate(prompts)
        for j, params in enumerate(settings)
    ]
    return {name: [row[name] for row in rows] for name in rows[0]}


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Inference mode with dropout off."""
    with evaluation_mode(model), torch.inference_mode():
        yield


def _own_samples(
    policy: Policy,
    task: Task,
    prompts: Sequence[Prompt],
    samples: int,
    params: SamplingParams,
    generator: torch.Generator,
    max_tokens: int | None,
) -> Samples:
    uniforms = torch.rand(len(prompts) * samples, task.max_new_tokens, dtype=torch.float64, generator=generator)
    return bounded_sample(
        policy.model,
        [p.ids for p in prompts],
        max_tokens=max_tokens,
        group_size=samples,
        max_new_tokens=task.max_new_tokens,
        eos_id=policy_end_tokens(policy),
        pad_id=policy.pad_id,
        uniforms=uniforms,
        **params._asdict(),
    )


def _responses(drawn: Samples) -> list[list[int]]:
    return [row[:n] for row, n in zip(drawn.response_ids.tolist(), drawn.lengths.tolist(), strict=True)]


def _verdicts(task: Task, prompts: Sequence[Prompt], drawn: Samples) -> list[bool]:
    responses = _responses(drawn)
    group = len(responses) // len(prompts)
    owners = [prompt.ids for prompt in prompts for _ in range(group)]
    return [verdict.correct for verdict in verdicts(task, owners, responses)]


class _Exact(NamedTuple):
    """What enumeration says of one prompt at one temperature: columns of the table."""

    p: float | None
    effective_solutions: float | None
    mode_mass: float | None
    mode_p: float | None


def _enumerated(
    policy: Policy,
    task: Task,
    prompts: Sequence[Prompt],
    settings: list[SamplingParams],
    max_rows: int,
    known: KnownSolutions,
) -> list[list[_Exact]]:
    """The exact columns of each prompt under each of `settings`, which differ in temperature only."""
    solutions = [known.of(prompt) for prompt in prompts]
    prefix = mode_prefix(task)
    log_probs = tree_log_probs(
        policy.model,
        known.trees(prompts, max_rows),
        [params.temperature for params in settings],
        top_k=settings[0].top_k,
        top_p=settings[0].top_p,
    )
    out: list[list[_Exact]] = []
    for group, values in zip(solutions, log_probs, strict=True):
        mode: list[tuple[float | None, float | None]] = [(None, None)] * len(settings)
        if prefix:
            values, opening = values[:, :-1], values[:, -1]
            inside = [i for i, response in enumerate(group or []) if response[: len(prefix)] == prefix]
            given = (values[:, inside] - opening[:, None]).exp().sum(-1).clamp(max=1.0)
            mode = [
                (m, None if group is None or m == 0 else g)
                for m, g in zip(opening.exp().tolist(), given.tolist(), strict=True)
            ]
        if not group:
            out.append([_Exact(None if group is None else 0.0, None, *of_mode) for of_mode in mode])
            continue
        success = values.exp().sum(-1).clamp(max=1.0)  # rounding alone can take the sum above 1
        effective = [n or None for n in effective_solutions(values).tolist()]  # 0 where the distribution reaches none
        out.append(
            [_Exact(*columns) for columns in zip(success.tolist(), effective, *zip(*mode, strict=True), strict=True)]
        )
    return out


def _on_fixed_prefixes(
    policy: Policy, prompt_ids: list[str], fixed: FixedPrefixes, settings: list[SamplingParams]
) -> list[list[tuple[float, float]]]:
    """(mean entropy, mean tail mass) over the fixed prefixes of each prompt under each of `settings`."""
    index = {prompt_id: i for i, prompt_id in enumerate(prompt_ids)}
    rows = [r for r, prompt_id in enumerate(fixed.prompt_ids) if prompt_id in index]
    missing = set(prompt_ids) - {fixed.prompt_ids[r] for r in rows}
    if missing:
        raise UsageError(
            f"fixed: expected prefixes for each prompt, got none for {min(missing)} and "
            f"{len(missing) - 1} others; make them with FixedPrefixes.from_samples on all prompts"
        )
    sums = torch.zeros(len(prompt_ids), len(settings), 2, dtype=torch.float64)
    counts = torch.zeros(len(prompt_ids), 1, 1, dtype=torch.float64)
    longest = max(len(fixed.responses[r]) for r in rows)
    size = max(1, _LOGITS // (longest * policy.model.config.vocab_size))
    for low in range(0, len(rows), size):
        part = rows[low : low + size]
        batch = teacher_batch(
            [fixed.prompts[r] for r in part], [fixed.responses[r] for r in part], policy.pad_id, policy.model.device
        )
        logits = response_logits(policy.model, batch)[batch.mask]
        values = torch.stack([_entropy_and_tail(logits, params) for params in settings], 1).cpu()
        owner = torch.tensor([index[fixed.prompt_ids[r]] for r in part for _ in fixed.responses[r]])
        sums.index_add_(0, owner, values)
        counts.index_add_(0, owner, torch.ones(len(owner), 1, 1, dtype=torch.float64))
    means = sums / counts
    if not bool(means.isfinite().all()):
        first = first_index(~means.isfinite())[0]
        raise DivergedError(
            f"entropy of the policy on the fixed prefixes of prompt {prompt_ids[first]} is not finite; "
            "its logits hold NaN or infinity"
        )
    return [[(h, m) for h, m in row] for row in means.tolist()]


def _entropy_and_tail(logits: Tensor, params: SamplingParams) -> Tensor:
    """Entropy and mass beyond the TAIL_RANK most probable tokens of each row: (N, 2) float64.

    The tail is a sum of its own members, not one minus the head, which rounds to zero where the policy is sure.
    """
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) / params.temperature
    if truncates(params.top_k, params.top_p):
        scaled = scaled.masked_fill(~kept_tokens(logits, **params._asdict()), -torch.inf)
    log_probs = scaled.log_softmax(-1)
    probs = log_probs.exp()
    entropy = torch.special.entr(probs).sum(-1)
    head = log_probs.topk(min(TAIL_RANK, log_probs.shape[-1]), dim=-1).indices
    tail = probs.scatter(-1, head, 0.0).sum(-1)
    return torch.stack([entropy, tail], -1).double()
