"""`evaluate` against slow definitions of each column, on a random Qwen3 and a task small enough to list."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.errors import DivergedError, UsageError
from analysis.evaluation import FixedPrefixes, evaluate, pass_at_k, pass_at_k_exact
from analysis.evaluation.eval_rows import TAIL_RANK
from analysis.evaluation.metrics import METRICS
from analysis.evaluation.sampling_params import SamplingParams
from analysis.records.schema import BUCKETS, EVALS
from tests.evaluation.conftest import qwen3
from toy_models import Policy, Prompt, Verdict

TEMPERATURES = (1.0, 0.6)
VOCAB, END, PAD = 20, 18, 19


class SumTask:
    """Prompt `a b …`; correct are one or two tokens below 5 whose sum is a, or 3 or 6 … more, then END."""

    name, max_new_tokens, tokenizer = "sum", 3, None

    def __init__(self, enumerable: bool = True) -> None:
        self.enumerable = enumerable

    def prompts(self, split):
        ids = [(3, 5), (4, 5), (6, 7, 8), (9, 1)]
        return [Prompt(f"id{i}", x, str(x), split, None) for i, x in enumerate(ids)]

    def solutions(self, prompt_ids):
        if not self.enumerable:
            return None
        candidates = [y for n in (1, 2) for y in itertools.product(range(5), repeat=n)]
        return [(*y, END) for y in candidates if self.verify(prompt_ids, (*y, END)).correct]

    def verify(self, prompt_ids, response_ids):
        *body, last = response_ids
        correct = (
            last == END
            and len(body) in (1, 2)
            and max(body) < 5
            and (sum(body) - prompt_ids[0]) % 3 == 0
            and prompt_ids[0] != 9
        )  # the last prompt has no solution
        return Verdict(correct, "")


def make_policy() -> Policy:
    return Policy(qwen3(6, VOCAB), SimpleNamespace(eos_token_id=END, pad_token_id=PAD))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(task=None, policy=None, prompts=None, **changes):
    task, policy = task or SumTask(), policy or make_policy()
    prompts = prompts or task.prompts("test")
    fixed = FixedPrefixes.from_samples(policy, task, task.prompts("test"), generator=generator(7), samples=3)
    arguments = {
        "fixed": fixed,
        "temperatures": TEMPERATURES,
        "samples": 5,
        "generator": generator(1),
        "step": 8,
        "update": 31,
    } | changes
    return evaluate(policy, task, prompts, **arguments)


def next_token_probs(policy, prefix, temperature=1.0):
    with torch.no_grad():
        return (policy.model(input_ids=torch.tensor([prefix])).logits[0, -1] / temperature).softmax(-1)


def test_columns_and_keys_are_those_of_the_schema():
    columns = run()
    assert tuple(columns) == EVALS.names
    nullable = {column.name for column in EVALS.columns if column.null}
    kinds = {"int32": int, "str": str, "float64": float, "bool": bool}
    for column in EVALS.columns:
        values = columns[column.name]
        assert len(values) == 8
        assert all(type(v) is kinds[column.kind] for v in values if v is not None)
        assert column.name in nullable or None not in values
    assert columns["step"] == [8] * 8
    assert columns["update"] == [31] * 8
    assert columns["prompt_id"] == [f"id{i}" for i in range(4) for _ in TEMPERATURES]
    assert columns["temperature"] == list(TEMPERATURES) * 4
    assert columns["split"] == ["test"] * 8
    assert BUCKETS[2] == TAIL_RANK


def test_success_probability_and_effective_solutions():
    policy, task = make_policy(), SumTask()
    columns = run(task, policy)
    for row, (prompt, temperature) in enumerate(itertools.product(task.prompts("test"), TEMPERATURES)):
        probabilities = []
        first = next_token_probs(policy, prompt.ids, temperature)
        for a in range(5):
            second = next_token_probs(policy, (*prompt.ids, a), temperature)
            if task.verify(prompt.ids, (a, END)).correct:
                probabilities.append(float(first[a] * second[END]))
            probabilities += [
                float(first[a] * second[b] * next_token_probs(policy, (*prompt.ids, a, b), temperature)[END])
                for b in range(5)
                if task.verify(prompt.ids, (a, b, END)).correct
            ]
        assert math.isclose(columns["p"][row], sum(probabilities), rel_tol=1e-9, abs_tol=0)
        if prompt.ids[0] == 9:
            assert columns["p"][row] == 0
            assert columns["effective_solutions"][row] is None
        else:
            q = np.array(probabilities) / sum(probabilities)
            assert math.isclose(columns["effective_solutions"][row], np.exp(-(q * np.log(q)).sum()), rel_tol=1e-8)


class ModeTask(SumTask):
    """The same with a name for the responses that open with the token 2."""

    mode_prefix = (2,)


def test_mass_of_a_mode_and_success_in_it():
    policy, task = make_policy(), ModeTask()
    plain, columns = run(SumTask(), policy), run(task, policy)
    assert plain["mode_mass"] == plain["mode_p"] == [None] * 8
    for name in plain.keys() - {"mode_mass", "mode_p"}:
        assert columns[name] == plain[name]
    outside = METRICS["outside_p"].values(pd.DataFrame(columns))
    for row, (prompt, temperature) in enumerate(itertools.product(task.prompts("test"), TEMPERATURES)):
        mass = float(next_token_probs(policy, prompt.ids, temperature)[2])
        joint = {True: 0.0, False: 0.0}
        for response in task.solutions(prompt.ids):
            probability = math.prod(
                float(next_token_probs(policy, (*prompt.ids, *response[:t]), temperature)[token])
                for t, token in enumerate(response)
            )
            joint[response[0] == 2] += probability
        assert math.isclose(columns["mode_mass"][row], mass, rel_tol=1e-9)
        assert math.isclose(columns["mode_p"][row], joint[True] / mass, rel_tol=1e-9, abs_tol=0)
        assert math.isclose(outside[row], joint[False] / (1 - mass), rel_tol=1e-6, abs_tol=1e-15)


def test_a_mode_without_enumeration_or_without_mass():
    columns = run(ModeTask(enumerable=False))
    assert columns["p"] == columns["mode_p"] == [None] * 8
    assert None not in columns["mode_mass"]
    policy = make_policy()
    never_two = torch.zeros(VOCAB, dtype=torch.float64)
    never_two[2] = -1e4  # exp underflows to 0; −∞ would make the entropy of the distribution NaN
    policy.model.lm_head.bias = torch.nn.Parameter(never_two)
    never = run(ModeTask(), policy)
    assert never["mode_mass"] == [0.0] * 8
    assert never["mode_p"] == [None] * 8
    outside = METRICS["outside_p"].values(pd.DataFrame(never))
    assert outside.tolist() == pytest.approx(never["p"])


def test_entropy_and_tail_on_fixed_prefixes():
    policy, task = make_policy(), SumTask()
    prompts = task.prompts("test")
    fixed = FixedPrefixes.from_samples(policy, task, prompts, generator=generator(7), samples=3)
    columns = run(task, policy, fixed=fixed)
    for row, (prompt, temperature) in enumerate(itertools.product(prompts, TEMPERATURES)):
        entropies, tails = [], []
        for owner, ids, response in zip(fixed.prompt_ids, fixed.prompts, fixed.responses, strict=True):
            for t in range(len(response) if owner == prompt.prompt_id else 0):
                pi = next_token_probs(policy, (*ids, *response[:t]), temperature)
                entropies.append(float(-(pi * pi.log()).sum()))
                tails.append(float(pi.sort(descending=True).values[16:].sum()))
        assert len(entropies) >= 3
        assert math.isclose(columns["entropy_fixed"][row], np.mean(entropies), rel_tol=1e-9)
        assert math.isclose(columns["tail_mass"][row], np.mean(tails), rel_tol=1e-9)


class ParityTask(SumTask):
    """Correct is whatever has an even sum: about half of all responses, so that a wrong greedy decoding shows."""

    def verify(self, prompt_ids, response_ids):
        return Verdict(sum(response_ids) % 2 == 0, "")


def test_greedy_decoding():
    policy, task = make_policy(), ParityTask(enumerable=False)
    columns = run(task, policy)
    expected = []
    for prompt in task.prompts("test"):
        response: list[int] = []
        while len(response) < 3 and END not in response:
            response.append(int(next_token_probs(policy, (*prompt.ids, *response)).argmax()))
        expected.append(sum(response) % 2 == 0)
    assert columns["greedy_correct"][::2] == columns["greedy_correct"][1::2] == expected
    assert set(expected) == {True, False}


def test_own_samples_at_the_first_temperature_agree_with_exact_values():
    """c ~ Binomial(n, p) with n = 4000 a prompt: z within 4 at the four prompts, false alarm 2.5e-4 in all."""
    n = 4000
    columns = run(samples=n)
    for row in range(8):
        if row % 2:
            assert columns["n"][row] is columns["c"][row] is columns["entropy_own"][row] is None
            continue
        p, c = columns["p"][row], columns["c"][row]
        assert columns["n"][row] == n
        assert abs(c - n * p) <= 4 * math.sqrt(n * p * (1 - p)) + 1e-9
        assert math.isclose(pass_at_k(n, c, 1), c / n)
        assert pass_at_k_exact(p, 1) == pytest.approx(p)
    assert 5 < max(c for c in columns["c"] if c is not None) < n - 5


def test_entropy_on_own_samples():
    policy, task = make_policy(), SumTask()
    prompts = task.prompts("test")
    columns = run(task, policy)
    own = FixedPrefixes.from_samples(policy, task, prompts, generator=generator(1), samples=5)  # the same uniforms
    for i, prompt in enumerate(prompts):
        entropies = [
            float(torch.special.entr(next_token_probs(policy, (*prompt.ids, *response[:t]))).sum())
            for owner, response in zip(own.prompt_ids, own.responses, strict=True)
            for t in range(len(response))
            if owner == prompt.prompt_id
        ]
        assert math.isclose(columns["entropy_own"][2 * i], np.mean(entropies), rel_tol=1e-6)


def test_a_subset_of_the_prompts_gives_its_own_rows():
    prompts = SumTask().prompts("test")
    whole, part = run(), run(prompts=prompts[:2])
    for name, values in part.items():
        exact = [v if not isinstance(v, float) else pytest.approx(v, rel=1e-9) for v in whole[name][:4]]
        assert values == exact


def test_a_task_without_enumeration_has_no_exact_columns():
    columns = run(SumTask(enumerable=False))
    assert columns["p"] == columns["effective_solutions"] == [None] * 8
    assert columns["n"][0] == 5


def test_without_samples_no_generator_is_needed():
    columns = run(samples=0, generator=None)
    assert columns["n"] == columns["c"] == columns["entropy_own"] == [None] * 8
    assert None not in columns["p"]


def test_nothing_changes_but_the_generator_given():
    policy = make_policy()
    policy.model.train()
    policy.model.lm_head.eval()
    modes = [module.training for module in policy.model.modules()]
    before = [parameter.clone() for parameter in policy.model.parameters()]
    state = torch.get_rng_state()
    first = run(policy=policy)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(before, policy.model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in policy.model.parameters())
    assert modes == [module.training for module in policy.model.modules()]
    assert torch.is_grad_enabled()
    assert run(policy=policy) == first


def test_fixed_prefixes_survive_json():
    fixed = FixedPrefixes.from_samples(make_policy(), SumTask(), SumTask().prompts("test"), generator=generator())
    assert FixedPrefixes(**json.loads(json.dumps(asdict(fixed)))) == fixed


def test_a_vocabulary_smaller_than_the_tail_rank_has_no_tail():
    from analysis.evaluation.eval_rows import _entropy_and_tail

    assert _entropy_and_tail(torch.zeros(1, 5), SamplingParams()).tolist() == [[pytest.approx(math.log(5)), 0.0]]
    # 1 − Σ head is 0 in float32 at a gap of 40
    logits = torch.zeros(1, VOCAB)
    logits[0, :16] = 40.0
    assert _entropy_and_tail(logits, SamplingParams())[0, 1] == pytest.approx(
        (VOCAB - 16) / 16 * math.exp(-40), rel=1e-5
    )


def test_bad_input():
    prompts = SumTask().prompts("test")
    with pytest.raises(UsageError, match="expected distinct prompts, at least one, got 2 of which 1"):
        run(prompts=[prompts[0], prompts[0]])
    with pytest.raises(UsageError, match=r"generator: expected a torch\.Generator to draw samples = 5"):
        run(generator=None)
    with pytest.raises(UsageError, match="fixed: expected prefixes for each prompt, got none for id1 and 2 others"):
        run(fixed=FixedPrefixes(["id0"], [[3, 5]], [[1, 2]]))


def test_a_policy_with_nan_is_reported():
    policy = make_policy()
    fixed = FixedPrefixes.from_samples(policy, SumTask(), SumTask().prompts("test"), generator=generator())
    with torch.no_grad():
        policy.model.lm_head.weight[0, 0] = math.nan
    with pytest.raises(DivergedError, match="prompt id0 is not finite"):
        evaluate(policy, SumTask(), SumTask().prompts("test"), fixed=fixed, generator=generator())
