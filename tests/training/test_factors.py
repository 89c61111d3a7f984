"""Every field of a recipe, switched: what it changes first, how, and that nothing before that changes by a bit.

A run is looked at stage by stage, in the order in which a step makes them: base, prompts, responses, rewards,
advantages, minibatches, weights, regularisers, the first optimiser step, the rest of the run, evaluations, records,
files. An entry of FACTORS switches one field on a small run and names the first stage that this changes: every stage
before it must be equal bit for bit, that stage must differ, and `check` says how. What a later stage does with an
earlier one's difference follows from the stages' own tests.

A field that such a switch cannot show has an entry in ELSEWHERE instead, the test that does. A new field needs one of
the two: `test_every_field_has_an_entry` fails until it has.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.common.devices import pick_device
from analysis.errors import UsageError
from analysis.objectives.parameters import CORRECTIONS
from analysis.recipes import Recipe
from analysis.recipes.config import FIELDS
from analysis.training import setup as start
from tests.training.small_runs import STAGES, Seen, look, same
from toy_models import get_task, load_policy

pytestmark = pytest.mark.filterwarnings("ignore:.*force_all_finite.*")

REUSE = {"update.epochs": 3, "optimizer.lr": 2.0}  # far enough from the old policy for clips to bind
ONE_SIGN = {"objective.name": "psr", "update.rows": "drop"}
CRITIC = {"critic.enabled": True}
WHOLE = {"update.minibatches": "unset"}
ADAM = {"optimizer.name": "adamw", "optimizer.lr": 0.01}
CONSTANT = {"update.normalizer": "constant", "update.constant": 10.0}
EVALUATED = {"eval.every": 1, "eval.prompts": 2, "eval.final_prompts": 3, "eval.samples": 2}
RECORDED = {
    "record.tokens": 0.5,
    "record.contexts": 8,
    "record.jvp_every": 1,
    "record.contexts_every": 1,
    "record.top_k": 3,
}
NOISE = {"record.noise_every": 1, "record.noise_prompts": 2, "record.noise_replicates": 3}
MASKED = {"update.token_mask": "probability", "update.mask_high": 0.5}
KL = {"objective.kl_coef": 0.1, "objective.kl_estimator": "k1"}


def switched(path: str, value: Any, given: dict[str, Any]) -> tuple[Seen, Seen]:
    return look(tuple(sorted(given.items()))), look(tuple(sorted((given | {path: value}).items())))


# -- what a switch changes; b is the run before it, a the one after ------------------------------------------------


def close(got: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Equal up to the rounding of float64; Δθ is a difference of numbers near 1, so its own is absolute."""
    torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(expected), rtol=tolerance, atol=tolerance)


def more_steps(b: Seen, a: Seen) -> None:
    assert (len(b.updates), len(a.updates)) == (4, 6)
    assert all(torch.equal(x.theta, y.theta) for x, y in zip(b.updates, a.updates, strict=False))


def in_single(b: Seen, a: Seen) -> None:
    assert (b.theta.dtype, a.theta.dtype) == (torch.float64, torch.float32)
    assert torch.equal(b.theta.float(), a.theta)
    assert same(b.stages["prompts"], a.stages["prompts"])


def from_fewer_prompts(b: Seen, a: Seen) -> None:
    allowed = {p.prompt_id for p in training_prompts(b)[:12]}
    assert {p.prompt_id for batch in a.batches for p in batch.prompts} <= allowed
    assert not {p.prompt_id for batch in b.batches for p in batch.prompts} <= allowed


def training_prompts(seen: Seen) -> list[Any]:
    return get_task(seen.config.task.name, load_policy("tiny").tokenizer).prompts("train")


def all_wrong_rewarded(b: Seen, a: Seen) -> None:
    batch = a.batches[0]
    assert torch.equal(batch.correct, b.batches[0].correct)
    assert (batch.rewards == 1).all()
    assert torch.equal(batch.flipped, ~batch.correct)


def no_correct_rewarded(b: Seen, a: Seen) -> None:
    batch = a.batches[0]
    assert torch.equal(batch.correct, b.batches[0].correct)
    assert (batch.rewards == 0).all()
    assert torch.equal(batch.flipped, batch.correct)


def advantages_are(of_rewards: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Seen, Seen], None]:
    def check(b: Seen, a: Seen) -> None:
        assert same(b.stages["minibatches"], a.stages["minibatches"])
        close(a.batches[0].advantages, of_rewards(a.batches[0].rewards), 1e-6)  # kept in float32

    return check


def by_probability(b: Seen, a: Seen) -> None:
    close(a.first("weights"), b.first("weights") * a.first("log_probs").exp())


def clipped(side: int, condition: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[[Seen, Seen], None]:
    """The same updates up to the first one with a clip, in which exactly the tokens of the condition lost theirs."""

    def check(b: Seen, a: Seen) -> None:
        for x, y in zip(b.updates, a.updates, strict=True):
            hit = False
            for i, was in x.tokens.items():
                now = y.tokens[i]
                assert torch.equal(was["ratio"], now["ratio"])
                bound = condition(now["ratio"], now["advantages"].expand(now["ratio"].shape))
                assert torch.equal(now["clip"], side * bound.to(torch.int8))
                assert torch.equal(now["weights"], was["weights"].masked_fill(bound, 0))
                hit = hit or bool(bound.any())
            if hit:
                return
        raise AssertionError("no token was clipped")

    return check


def kl_weights_are(of_log_ratio: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Seen, Seen], None]:
    def check(b: Seen, a: Seen) -> None:
        for update in a.updates:
            tokens = sum(len(one["weights"]) for one in update.tokens.values())
            for one in update.tokens.values():
                r = one["log_probs"] - one["ref_log_probs"]
                close(one["kl_weights"], 0.1 * of_log_ratio(r) / tokens)
        assert a.updates[-1].grad_norm["reg"] > 0

    return check


def penalised(b: Seen, a: Seen) -> None:
    assert all(one["kl_weights"] is None for u in a.updates for one in u.tokens.values())
    for update, one in ((u, one) for u in a.updates[2:] for one in u.tokens.items()):
        batch = a.batches[1]
        assert update.skipped is False
        i, tokens = one
        kl = float((tokens["old_log_probs"] - tokens["ref_log_probs"]).sum())
        close(float(a.targets[1].advantages[i]), 2 * float(batch.rewards[i]) - 1 - 0.1 * kl, 1e-6)
        assert abs(kl) > 1e-6


def entropy_everywhere(b: Seen, a: Seen) -> None:
    total = len(a.first("weights"))
    close(a.first("entropy_weights"), torch.full((total,), 0.1 / total, dtype=torch.float64))
    assert same(b.stages["minibatches"], a.stages["minibatches"])


def valued_at_zero(b: Seen, a: Seen) -> None:
    """A head that starts at zero is not yet a baseline in the first step."""
    batch = a.batches[0]
    expected = torch.where(batch.mask(), batch.advantages[:, None].double(), 0.0)
    assert torch.equal(a.targets[0].token_advantages, expected)
    for stage in ("weights", "step"):
        assert same(b.stages[stage], a.stages[stage])
    assert a.updates[0].value_loss == 0.5
    assert b.updates[0].value_loss is None


def from_the_second_step_on(b: Seen, a: Seen) -> None:
    assert torch.equal(b.updates[1].theta, a.updates[1].theta)
    assert not torch.equal(b.updates[2].theta, a.updates[2].theta)


def decaying_from_the_end(b: Seen, a: Seen) -> None:
    batch = a.batches[0]
    for i, n in enumerate(batch.lengths.tolist()):
        expected = [float(batch.advantages[i]) * 0.5 ** (n - 1 - t) for t in range(n)]  # V = 0 in the first step
        close(a.targets[0].token_advantages[i, :n], torch.tensor(expected, dtype=torch.float64))


def standardised(b: Seen, a: Seen) -> None:
    mask = a.batches[0].mask()
    plain, got = b.targets[0].token_advantages[mask], a.targets[0].token_advantages[mask]
    close(got, (plain - plain.mean()) / (plain.std() + 1e-6))
    assert torch.equal(a.targets[0].returns, b.targets[0].returns)


def larger_value_loss(b: Seen, a: Seen) -> None:
    pairs = [(x.value_loss, y.value_loss) for x, y in zip(b.updates, a.updates, strict=True)]
    first = next((x, y) for x, y in pairs if x != y)
    assert first[1] > first[0]
    assert pairs.index(first) > 0


def steps_are(of: Callable[[Seen], torch.Tensor]) -> Callable[[Seen, Seen], None]:
    def check(b: Seen, a: Seen) -> None:
        close(a.step(0), of(b), 1e-14)

    return check


def like_adam(b: Seen, a: Seen) -> None:
    g = -b.step(0) / 0.01
    # g is a difference of parameters near 1 over a rate of 0.01, so off by 1e-14, which ε = 1e-8 in the divisor turns
    # into 1e-6 of a step at most
    close(a.step(0), -0.01 * g / (g.abs() + 1e-8), 1e-7)


def rates(*expected: float) -> Callable[[Seen, Seen], None]:
    def check(b: Seen, a: Seen) -> None:
        assert [u.lr for u in a.updates] == pytest.approx(expected, rel=1e-15)
        assert {u.lr for u in b.updates} == {0.5}

    return check


def with_momentum(b: Seen, a: Seen) -> None:
    close(a.step(0), b.step(0), 0)
    close(a.step(1), b.step(1) + 0.9 * b.step(0), 1e-14)


def of_norm(b: Seen, a: Seen) -> None:
    norm = b.updates[0].grad_norm["total"]
    assert norm > 0.01
    close(a.step(0), b.step(0) * 0.01 / (norm + 1e-6), 1e-14)


def more_groups(b: Seen, a: Seen) -> None:
    """One permutation and one table of uniforms: the groups of before are the first of those after."""
    assert [p.prompt_id for p in a.batches[0].prompts][:8] == [p.prompt_id for p in b.batches[0].prompts]
    assert a.batches[0].responses[:32] == b.batches[0].responses
    assert len(a.batches[0]) == 64


def larger_groups(b: Seen, a: Seen) -> None:
    assert (len(b.batches[0]), len(a.batches[0])) == (32, 64)
    assert [a.batches[0].prompt(i) for i in (0, 7, 8)] == [b.batches[0].prompt(i) for i in (0, 3, 4)]


def sampled_and_differentiated_at(temperature: float) -> Callable[[Seen, Seen], None]:
    """The law that was sampled is the one whose log-probs the update differentiates, at the same temperature."""

    def check(b: Seen, a: Seen) -> None:
        for seen in (b, a):
            batch, first = seen.batches[0], seen.updates[0].tokens
            for i, one in first.items():
                # sampling log-probs are kept in float32
                close(one["log_probs"], batch.sampling_log_probs[i, : batch.lengths[i]].double(), 1e-5)
        assert a.config.rollout.temperature == temperature
        assert float(a.batches[0].entropy.mean()) < float(b.batches[0].entropy.mean())

    return check


def nucleus(b: Seen, a: Seen) -> None:
    """Every sampled token lies in the smallest set of tokens whose probabilities reach top_p."""
    for one in a.updates[0].tokens.values():
        probs = one["logits"].softmax(-1)
        p = one["log_probs"].exp()
        more_likely = torch.where(probs > p[:, None] * (1 + 1e-9), probs, 0.0).sum(-1)
        assert (more_likely < 0.5).all()
    outside = [one for one in b.updates[0].tokens.values() if (one["log_probs"].exp() < 0.05).any()]
    assert outside


def most_probable(b: Seen, a: Seen) -> None:
    for one in a.updates[0].tokens.values():
        others = one["logits"].softmax(-1) > one["log_probs"].exp()[:, None] * (1 + 1e-9)
        assert (others.sum(-1) < 2).all()


def truncated(b: Seen, a: Seen) -> None:
    """The same responses cut short, and those that have not ended told apart."""
    batch = a.batches[0]
    assert batch.lengths.max() == 2 < b.batches[0].lengths.max()
    assert batch.responses == [response[:2] for response in b.batches[0].responses]
    ends = {r[-1] for r, done in zip(b.batches[0].responses, b.batches[0].finished, strict=True) if done}
    assert len(ends) == 1
    assert batch.finished.tolist() == [r[-1] in ends for r in batch.responses]
    assert not batch.finished.all()
    table = a.tables["rollouts"]
    assert (table[table.step == 0].finished.to_numpy() == batch.finished.numpy()).all()
    assert (table.length <= 2).all()


def from_the_base(b: Seen, a: Seen) -> None:
    """The second step has the rollouts of the base: the same uniforms drew other responses; ratios are to the base."""
    assert a.batches[0].responses == b.batches[0].responses
    assert [p.prompt_id for p in a.batches[1].prompts] == [p.prompt_id for p in b.batches[1].prompts]
    assert a.batches[1].responses != b.batches[1].responses
    assert same(a.updates[1].theta, b.updates[1].theta)
    older(a, a.batches[1])


def once_and_for_all(b: Seen, a: Seen) -> None:
    """Nothing is drawn in the second step, and its updates are made from the first one's rollouts."""
    assert len(a.batches) == 1
    assert same(a.updates[1].theta, b.updates[1].theta)
    older(a, a.batches[0])
    first, second = (
        rows.drop(columns="step").reset_index(drop=True) for _, rows in a.tables["rollouts"].groupby("step")
    )
    assert same(first, second)


def older(seen: Seen, batch: Any) -> None:
    """In the second step the old log-probs are those of sampling, kept in float32, and the policy has left them."""
    assert list(seen.tables["steps"].age) == [0, 1]
    assert seen.updates[2].tokens
    for i, one in seen.updates[2].tokens.items():
        close(one["old_log_probs"], batch.sampling_log_probs[i, : batch.lengths[i]].double(), 1e-5)
        close(one["ratio"], (one["log_probs"] - one["old_log_probs"]).exp())
    assert any((one["ratio"] != 1).all() for one in seen.updates[2].tokens.values())


def masked(value: Callable[[dict[str, Any]], torch.Tensor], low: float, high: float) -> Callable[[Seen, Seen], None]:
    """Of the tokens of the first update, those whose rank is in the range keep their weight, the others have none."""

    def check(b: Seen, a: Seen) -> None:
        tokens = a.updates[0].tokens
        values = torch.cat([value(tokens[i]) for i in sorted(tokens)])
        order = values.argsort()
        kept = torch.zeros(len(values), dtype=torch.bool)
        kept[order[int(low * len(values)) : int(high * len(values))]] = True
        close(a.first("weights"), torch.where(kept, look(()).first("weights"), 0.0))
        assert 0 < int(kept.sum()) < len(kept)

    return check


def as_long_as_unmasked(b: Seen, a: Seen) -> None:
    whole = look(())
    close(a.updates[0].grad_norm["total"], whole.updates[0].grad_norm["total"])
    scale = a.tables["updates"].mask_scale[0]
    assert abs(scale - 1) > 1e-3
    close(a.first("weights"), scale * b.first("weights"))
    close(a.step(0), scale * b.step(0))
    assert b.tables["updates"].mask_scale.isna().all()


def of_probability(one: dict[str, Any]) -> torch.Tensor:
    return one["log_probs"].exp()


def of_entropy(one: dict[str, Any]) -> torch.Tensor:
    return torch.special.entr(one["logits"].softmax(-1)).sum(-1)


def of_signed_change(one: dict[str, Any]) -> torch.Tensor:
    return one["advantages"].sign() * (1 - one["log_probs"].exp())


def once_more(b: Seen, a: Seen) -> None:
    assert (len(b.updates), len(a.updates)) == (4, 8)
    assert all(torch.equal(x.theta, y.theta) for x, y in zip(b.updates[:2], a.updates[:2], strict=True))
    assert sorted(a.updates[2].rows + a.updates[3].rows) == sorted(b.updates[0].rows + b.updates[1].rows)
    assert all((one["ratio"] == 1).all() for one in a.updates[0].tokens.values())
    assert any((one["ratio"] != 1).any() for one in a.updates[2].tokens.values())


def halves(b: Seen, a: Seen) -> None:
    """The same permutation, cut twice as often."""
    assert [len(u.rows) for u in a.updates[:4]] == [8] * 4
    assert sorted(a.updates[0].rows + a.updates[1].rows) == b.updates[0].rows


def by_size(b: Seen, a: Seen) -> None:
    assert [len(u.rows) for u in a.updates[: a.per_step()]] == [12, 12, 8]
    assert len(b.updates[0].rows) == 32


def without_the_other_sign(b: Seen, a: Seen) -> None:
    rewarded = (a.batches[0].rewards > 0).nonzero()[:, 0].tolist()
    assert sorted(a.updates[0].rows + a.updates[1].rows) == rewarded
    assert sorted(b.updates[0].rows + b.updates[1].rows) == list(range(32))
    assert abs(len(a.updates[0].rows) - len(a.updates[1].rows)) <= 1


def dropped_after(b: Seen, a: Seen) -> None:
    """Each minibatch of the whole batch loses its rows of the other sign: fewer rows, not fewer minibatches."""
    kept = look(tuple(sorted({"objective.name": "psr", "update.minibatches": 4}.items())))
    rewarded = set((a.batches[0].rewards > 0).nonzero()[:, 0].tolist())
    for x, y in zip(kept.updates[:4], a.updates[:4], strict=True):
        assert y.rows == [i for i in x.rows if i in rewarded]
    assert len({len(u.rows) for u in b.updates[:4]}) <= 2  # before: as even as can be


def stepped_on(b: Seen, a: Seen) -> None:
    empty = [i for i, u in enumerate(b.updates) if u.skipped]
    assert empty
    assert not any(u.skipped for u in a.updates)
    assert all(not a.updates[i].rows for i in empty[: a.per_step()])
    later = next(i for i in empty if any(u.rows for u in b.updates[:i]))
    assert torch.equal(b.updates[later].theta, b.updates[later - 1].theta)
    assert not torch.equal(a.updates[later].theta, a.updates[later - 1].theta)  # by its momentum


def per_sequence(b: Seen, a: Seen) -> None:
    tokens, rows = len(b.first("weights")), len(b.updates[0].rows)
    for i, one in a.updates[0].tokens.items():
        was = b.updates[0].tokens[i]["weights"]
        close(one["weights"], was * tokens / (len(was) * rows))


def halved_weights(b: Seen, a: Seen) -> None:
    close(a.first("weights"), b.first("weights") / 2, 1e-15)


def enumerated(b: Seen, a: Seen) -> None:
    assert (len(b.updates), len(a.updates)) == (2, 0)  # no update has tokens
    assert a.tables["updates"].rows_pos.eq(0).all()
    assert a.tables["updates"].param_step_norm.gt(0).all()


def micro(b: Seen, a: Seen) -> None:
    close(a.first("weights"), b.first("weights"))
    close(a.step(0), b.step(0))


def nearly_the_same_steps(b: Seen, a: Seen) -> None:
    """Up to the norms of the policy, which round to float32 inside."""
    close(a.first("weights"), b.first("weights"), 1e-6)
    close(a.step(0), b.step(0), 1e-6)


def signs_together(b: Seen, a: Seen) -> None:
    nearly_the_same_steps(b, a)
    apart, together = b.tables["updates"], a.tables["updates"]
    assert together[["grad_norm_pos", "grad_norm_neg", "grad_cos"]].isna().all(axis=None)
    assert apart[["grad_norm_pos", "grad_norm_neg", "grad_cos"]].notna().all(axis=None)
    for name in ("rows_pos", "rows_neg", "tokens_pos", "tokens_neg", "normalizer"):
        assert apart[name].tolist() == together[name].tolist()
    first, other = apart.iloc[0], together.iloc[0]
    for name in ("loss", "weight_sum_pos", "weight_sum_neg", "grad_norm_total"):
        close(float(other[name]), float(first[name]), 1e-6)


def evaluated_at(*steps: int) -> Callable[[Seen, Seen], None]:
    return lambda b, a: _assert(sorted(set(a.tables["evals"].step)) == list(steps))


def _assert(truth: bool) -> None:
    assert truth


def evaluated(split: str, **counts: int) -> Callable[[Seen, Seen], None]:
    """How many prompts of a split were evaluated at the first, a middle and the last step."""

    def check(b: Seen, a: Seen) -> None:
        evals = a.tables["evals"]
        got = evals[evals.split == split].groupby("step").prompt_id.nunique()
        assert [int(got.loc[s]) for s in (0, 1, 2)] == list(counts.values())

    return check


def other_temperatures(b: Seen, a: Seen) -> None:
    assert set(a.tables["evals"].temperature) == {1.0, 0.3}
    was, now = (s.tables["evals"].query("temperature == 1.0").reset_index(drop=True) for s in (b, a))
    assert same(was, now)


def more_samples(b: Seen, a: Seen) -> None:
    changed = [c for c in a.tables["evals"] if not same(b.tables["evals"][[c]], a.tables["evals"][[c]])]
    assert changed
    assert set(changed) <= {"n", "c", "entropy_own"}


def truncated_evaluation(column: str, value: float) -> Callable[[Seen, Seen], None]:
    """The law is another one, with less entropy on the same prefixes; greedy decoding is not."""

    def check(b: Seen, a: Seen) -> None:
        was, now = b.tables["evals"], a.tables["evals"]
        assert set(now[column]) == {value}
        assert (now.entropy_fixed < was.entropy_fixed).all()
        assert not same(was[["p"]], now[["p"]])
        assert same(was[["greedy_correct"]], now[["greedy_correct"]])

    return check


def only_tables(*names: str) -> Callable[[Seen, Seen], None]:
    """Which tables differ. Contexts and groups are drawn from one stream, so drawing other contexts moves later groups
    on to other rollouts: the table tokens follows."""

    def check(b: Seen, a: Seen) -> None:
        changed = {n for n in a.tables if n != "evals" and not same(b.tables[n], a.tables[n])}
        assert changed == set(names)

    return check


@dataclass
class Factor:
    """A field's other value, the first stage that it changes, how, and the settings of both runs."""

    value: Any
    stage: str
    check: Callable[[Seen, Seen], None]
    given: dict[str, Any] = field(default_factory=dict)


def signed(rewards: torch.Tensor) -> torch.Tensor:
    return 2 * rewards - 1


def group_means(rewards: torch.Tensor) -> torch.Tensor:
    values = signed(rewards).reshape(-1, 4)
    return (values - values.mean(1, keepdim=True)).flatten()


FACTORS = {
    "steps": Factor(3, "run", more_steps),
    "seed": Factor(1, "prompts", lambda b, a: _assert(not same(b.stages["responses"], a.stages["responses"]))),
    "policy.dtype": Factor("float32", "base", in_single),
    "task.train_prompts": Factor(12, "prompts", from_fewer_prompts),
    "task.false_positive": Factor(1.0, "rewards", all_wrong_rewarded),
    "task.false_negative": Factor(1.0, "rewards", no_correct_rewarded),
    "objective.name": Factor("psr", "advantages", advantages_are(lambda r: r)),
    "objective.form": Factor("probability", "weights", by_probability),
    "objective.lambda": Factor(
        0.5,
        "advantages",
        advantages_are(lambda r: 1.5 * r - 1),
        {"objective.name": "w-reinforce", "objective.lambda": 0.1},
    ),
    "objective.clip_low": Factor(0.1, "run", clipped(-1, lambda r, a: (a < 0) & (r < 0.9)), REUSE),
    "objective.clip_high": Factor(0.1, "run", clipped(1, lambda r, a: (a > 0) & (r > 1.1)), REUSE),
    "objective.dual_clip": Factor(1.05, "run", clipped(1, lambda r, a: (a < 0) & (r > 1.05)), REUSE),
    "objective.advantage": Factor("group_mean", "advantages", advantages_are(group_means)),
    "objective.kl_coef": Factor(0.1, "regularisers", kl_weights_are(lambda r: torch.expm1(-r))),
    "objective.kl_estimator": Factor("k2", "regularisers", kl_weights_are(lambda r: -r), KL),
    "objective.kl_placement": Factor("reward", "regularisers", penalised, KL),
    "objective.entropy_coef": Factor(0.1, "regularisers", entropy_everywhere),
    "critic.enabled": Factor(True, "advantages", valued_at_zero),
    "critic.lr": Factor(0.1, "run", from_the_second_step_on, CRITIC),
    "critic.gae_lambda": Factor(0.5, "advantages", decaying_from_the_end, CRITIC),
    "critic.whiten": Factor(True, "advantages", standardised, CRITIC),
    "critic.clip": Factor(0.01, "run", larger_value_loss, CRITIC | {"critic.lr": 0.1}),
    "optimizer.name": Factor("adamw", "step", like_adam, {"optimizer.lr": 0.01}),
    "optimizer.lr": Factor(1.0, "step", steps_are(lambda b: 2 * b.step(0))),
    "optimizer.momentum": Factor(0.9, "run", with_momentum),
    "optimizer.weight_decay": Factor(0.1, "step", steps_are(lambda b: b.step(0) - 0.5 * 0.1 * b.theta)),
    "optimizer.schedule": Factor("linear", "run", rates(0.5, 0.5, 0.25, 0.25)),
    "optimizer.warmup_steps": Factor(2, "step", rates(0.25, 0.25, 0.5, 0.5)),
    "optimizer.max_grad_norm": Factor(0.01, "step", of_norm),
    "rollout.prompts": Factor(16, "prompts", more_groups),
    "rollout.group_size": Factor(8, "responses", larger_groups),
    "rollout.temperature": Factor(0.5, "responses", sampled_and_differentiated_at(0.5)),
    "rollout.top_p": Factor(0.5, "responses", nucleus),
    "rollout.top_k": Factor(2, "responses", most_probable),
    "rollout.max_new_tokens": Factor(2, "responses", truncated),
    "rollout.refresh_every": Factor(0, "run", from_the_base),
    "rollout.fixed": Factor(True, "run", once_and_for_all),
    "update.token_mask": Factor("entropy", "weights", masked(of_entropy, 0, 0.5), MASKED),
    "update.mask_low": Factor(0.25, "weights", masked(of_probability, 0.25, 0.5), MASKED),
    "update.mask_high": Factor(
        0.75, "weights", masked(of_signed_change, 0, 0.75), MASKED | {"update.token_mask": "signed_change"}
    ),
    "update.mask_norm": Factor("full", "weights", as_long_as_unmasked, MASKED),
    "update.epochs": Factor(2, "minibatches", once_more),
    "update.minibatches": Factor(4, "minibatches", halves),
    "update.minibatch_size": Factor(12, "minibatches", by_size, WHOLE),
    "update.rows": Factor("drop", "minibatches", without_the_other_sign, {"objective.name": "psr"}),
    "update.drop": Factor("after", "minibatches", dropped_after, ONE_SIGN | {"update.minibatches": 4}),
    "update.empty": Factor(
        "step",
        "minibatches",
        stepped_on,
        ONE_SIGN | {"update.drop": "after", "update.minibatches": 32, "optimizer.momentum": 0.9},
    ),
    "update.normalizer": Factor("per_sequence", "weights", per_sequence),
    "update.constant": Factor(20.0, "weights", halved_weights, CONSTANT),
    "update.micro_batch": Factor(3, "step", micro),
    "update.micro_batch_tokens": Factor(40, "step", micro),
    "update.shared_prompts": Factor(True, "step", nearly_the_same_steps),
    "update.old_log_probs": Factor("rollouts", "weights", nearly_the_same_steps),
    "update.estimator": Factor("exact", "minibatches", enumerated, WHOLE | CONSTANT),
    "eval.every": Factor(10, "evaluations", evaluated_at(0, 2), EVALUATED),
    "eval.prompts": Factor(4, "evaluations", evaluated("validation", base=4, middle=4, end=4), EVALUATED),
    "eval.final_prompts": Factor(5, "evaluations", evaluated("test", base=5, middle=2, end=5), EVALUATED),
    "eval.temperatures": Factor((1.0, 0.3), "evaluations", other_temperatures, EVALUATED),
    "eval.top_p": Factor(0.5, "evaluations", truncated_evaluation("top_p", 0.5), EVALUATED),
    "eval.top_k": Factor(2, "evaluations", truncated_evaluation("top_k", 2), EVALUATED),
    "eval.samples": Factor(3, "evaluations", more_samples, EVALUATED),
    "record.tokens": Factor(1.0, "records", only_tables("tokens"), RECORDED),
    "record.columns": Factor("core", "records", only_tables("tokens"), RECORDED),
    "record.top_k": Factor(5, "records", only_tables("tokens", "flows"), RECORDED),
    "record.contexts": Factor(4, "records", only_tables("contexts", "flows", "tokens"), RECORDED),
    "record.contexts_every": Factor(2, "records", only_tables("contexts", "flows", "tokens"), RECORDED),
    "record.jvp_every": Factor(2, "records", only_tables("flows"), RECORDED),
    "record.shares_every": Factor(0, "records", only_tables("flows"), RECORDED),
    "record.signs_every": Factor(0, "step", signs_together),
    "record.rollouts": Factor(0.5, "records", only_tables("rollouts")),
    "record.noise_every": Factor(1, "records", only_tables("noise"), NOISE | {"record.noise_every": 5}),
    "record.noise_prompts": Factor(3, "records", only_tables("noise"), NOISE),
    "record.noise_replicates": Factor(4, "records", only_tables("noise"), NOISE),
    "record.chunk": Factor(1, "files", lambda b, a: _assert(len(a.files) > len(b.files))),
    "record.checkpoint": Factor(
        True,
        "files",
        lambda b, a: _assert({f for f in a.files if f not in b.files} == {f for f in a.files if "checkpoints" in f}),
    ),
}

# Covered by a test of their own: its file under tests/ and its name.
OF_SOME_OBJECTIVES = tuple(
    f"objective.{name}"
    for name in (
        "baseline",
        "tau_pos",
        "tau_neg",
        "share",
        "cov_low",
        "cov_high",
        "kappa",
        "ratio_floor",
        "epsilon",
        "prompt_weight",
        "positive_weight",
        "negative_weight",
        "rank_penalty",
        "floor",
        "beta",
        "clamp",
        "divergence_low",
        "divergence_high",
        "divergence",
        "ratio_cap",
        "drift_coef",
        "log_ratio_max",
        "log_clip_low",
        "log_clip_high",
        "vespo_k_pos",
        "vespo_lambda_pos",
        "vespo_k_neg",
        "vespo_lambda_neg",
        "advantage_max",
        "iw_gamma",
        "reward_values",
        "baseline_offset",
        "desirable_weight",
        "undesirable_weight",
        "divide_by",
        "interpolation",
        "quantile",
        "rescaling",
        "k",
        "tau",
        "whiten",
    )
)
_LOOP = "training/test_objectives_in_the_loop.py"
OF_THE_ROLLOUTS = tuple(f"objective.{parameter.name}" for parameter in CORRECTIONS)
_REACHES = "training/test_objectives_in_the_loop.py::test_each_parameter_reaches_the_weights"
_PRECISION = "training/test_precision_and_memory.py"
_LORA = "training/test_lora.py"
ELSEWHERE = {
    "threads": "experiments/test_experiment.py::test_each_in_its_own_process_with_its_threads",
    "device": "training/test_factors.py::test_device",
    "policy.base": "training/test_factors.py::test_what_a_run_starts_from",
    "policy.revision": "training/test_model_sources.py::test_a_run_says_its_commit_and_does_not_resume_with_another",
    "policy.end_tokens": "training/test_model_sources.py::test_end_tokens_of_the_recipe_end_responses",
    "policy.lora.r": f"{_LORA}::test_an_adapter_has_the_settings_of_the_recipe",
    "policy.lora.alpha": f"{_LORA}::test_an_adapter_has_the_settings_of_the_recipe",
    "policy.lora.targets": f"{_LORA}::test_an_adapter_has_the_settings_of_the_recipe",
    "policy.seed": "training/test_factors.py::test_what_a_run_starts_from",
    "policy.digest": "training/test_factors.py::test_what_a_run_starts_from",
    "task.name": "training/test_factors.py::test_what_a_run_starts_from",
    "task.train_file": "training/test_factors.py::test_what_a_run_starts_from",
    "task.validation_file": "training/test_factors.py::test_what_a_run_starts_from",
    "task.test_file": "training/test_factors.py::test_what_a_run_starts_from",
    "task.prompt_column": "training/test_factors.py::test_what_a_run_starts_from",
    "task.answer_column": "training/test_factors.py::test_what_a_run_starts_from",
    "task.chat_template": "training/test_factors.py::test_what_a_run_starts_from",
    "task.bos": "training/test_factors.py::test_what_a_run_starts_from",
    **dict.fromkeys(
        (f"task.{name}" for name in ("dataset", "config", "splits", "seed", "system", "answer_tag", "normal_form")),
        "recipes/test_public_tasks.py::test_each_field_changes_the_task_and_the_hash",
    ),
    "update.logits": "training/test_streamed_logits.py::test_streamed_logits_make_the_update_of_dense_ones",
    **dict.fromkeys(OF_SOME_OBJECTIVES, _REACHES),
    **dict.fromkeys(OF_THE_ROLLOUTS, f"{_LOOP}::test_corrections_of_the_rollouts_reach_the_weights"),
    "objective.teacher_revision": "training/test_model_sources.py::test_the_revision_of_a_teacher_is_its_own",
    "objective.teacher": f"{_LOOP}::test_the_teacher_scores_the_tokens_of_the_policy",
    **dict.fromkeys(
        (f"objective.entropy_{name}" for name in ("target", "coef_delta", "coef_min", "coef_max")),
        "training/test_entropy_control.py::test_the_coefficient_follows_the_entropy_of_each_update",
    ),
    "task.verifier": "training/test_factors.py::test_what_a_run_starts_from",
    "task.digest": "training/test_factors.py::test_what_a_run_starts_from",
    **dict.fromkeys(
        ("task.threshold", "task.verifier_seconds", "task.verifier_errors"),
        "training/test_factors.py::test_what_a_run_starts_from",
    ),
    "task.reward": "training/test_scores.py::test_scores_are_rewards_and_the_verdict_is_the_sign",
    "optimizer.betas": "training/test_update_by_hand.py::test_adamw_by_hand",
    "optimizer.eps": "training/test_update_by_hand.py::test_adamw_by_hand",
    "rollout.dtype": f"{_PRECISION}::test_a_run_in_bfloat16_rollouts_autocast_and_micro_batches",
    "update.autocast": f"{_PRECISION}::test_autocast_touches_the_matrix_products_only",
    "rollout.batch_tokens": "training/test_micro_batches.py::test_rollouts_and_evaluations_are_sampled_in_parts",
    "record.state_every": "training/test_resume_state.py::test_a_killed_run_resumes_from_the_last_state",
    "update.gradient_checkpointing": "training/test_recomputed_layers.py::test_the_update_of_a_plain_pass",
    "record.dtype": f"{_PRECISION}::test_statistics_are_at_least_of_the_recorded_dtype",
}


def test_every_field_has_an_entry() -> None:
    covered = FACTORS.keys() | ELSEWHERE.keys()
    missing, gone = sorted(FIELDS.keys() - covered), sorted(covered - FIELDS.keys())
    assert not missing, (
        f"{', '.join(missing)}: a new field needs a test that switches it: an entry in FACTORS (its other value, the "
        "first stage that it changes, a check of how) or in ELSEWHERE (the test that shows it)"
    )
    assert not gone, f"{', '.join(gone)}: no such field any more; take the entry out"
    assert not FACTORS.keys() & ELSEWHERE.keys()


@pytest.mark.parametrize("path", ELSEWHERE)
def test_the_test_elsewhere_is_there_and_names_the_field(path: str) -> None:
    name, test = ELSEWHERE[path].split("::")
    source = (Path(__file__).parents[1] / name).read_text(encoding="utf-8")
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == test]
    assert len(found) == 1, f"{path}: {ELSEWHERE[path]} is gone; name its successor"
    first = min(node.lineno for node in (found[0], *found[0].decorator_list))
    text = "\n".join(source.splitlines()[first - 1 : found[0].end_lineno])
    assert path.rpartition(".")[2] in text, f"{path}: {ELSEWHERE[path]} does not name it; name the test that shows it"


@pytest.mark.slow
@pytest.mark.parametrize("path", FACTORS)
def test_switch(path: str) -> None:
    factor = FACTORS[path]
    b, a = switched(path, factor.value, factor.given)
    for stage in STAGES[: STAGES.index(factor.stage)]:
        assert same(b.stages[stage], a.stages[stage]), f"{path} changed {stage} already"
    assert not same(b.stages[factor.stage], a.stages[factor.stage]), f"{path} did not change {factor.stage}"
    factor.check(b, a)


def test_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto is CUDA where there is one; a CUDA device that is missing is refused (a GPU is not needed to see it)."""
    for there, expected in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert pick_device("auto").type == expected
        assert pick_device("cpu").type == "cpu"
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        UsageError, match=r"device: expected an available device, got cuda:1, but torch .* finds no CUDA"
    ):
        pick_device("cuda:1")


OWN_FILES = {
    "policy.base": "folder",
    "task.name": "file",
    "task.train_file": "a",
    "rollout.max_new_tokens": 3,
    "eval.samples": 1,
}
OWN_FUNCTION = {**OWN_FILES, "task.verifier": "own.py:score"}
GIVEN_TASK = {"task.name": "given", "task.digest": "0"}
GIVEN_POLICY = {"policy.base": "given", "policy.digest": "0"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "value", "given", "changed"),
    [
        ("policy.base", "folder", {}, {"policy"}),
        ("policy.seed", 5, {}, {"policy_seed"}),
        ("seed", 5, {}, set()),
        ("policy.digest", "1", GIVEN_POLICY, set()),
        ("task.name", "path", {"policy.base": "folder", "task.name": "path-small"}, {"task"}),
        ("task.train_file", "b", OWN_FILES, {"train"}),
        ("task.validation_file", "b", OWN_FILES, {"validation"}),
        ("task.test_file", "b", OWN_FILES, {"test"}),
        ("task.prompt_column", "q", OWN_FILES, {"prompt_column"}),
        ("task.answer_column", "q", OWN_FILES, {"answer_column"}),
        ("task.chat_template", True, OWN_FILES, {"template"}),
        ("task.bos", True, OWN_FILES, {"bos"}),
        ("task.verifier", "math", OWN_FILES, {"verifier"}),
        ("task.threshold", 0.5, OWN_FUNCTION, {"threshold"}),
        ("task.verifier_seconds", 5, OWN_FUNCTION, {"verifier"}),
        ("task.verifier_errors", "zero", OWN_FUNCTION, {"verifier", "errors"}),
        ("task.digest", "1", GIVEN_TASK, set()),
    ],
)
def test_what_a_run_starts_from(
    path: str, value: Any, given: dict[str, Any], changed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each field is handed to what makes policy or task, and no other argument changes with it."""
    calls: list[dict[str, Any]] = [{}, {}]

    def policy(base: str, *, seed: int, **_: Any) -> Any:
        calls[0] |= {"policy": base, "policy_seed": seed}
        return load_policy("tiny")

    def from_files(tokenizer: Any, files: Any, verifier: Any, limit: int, template: bool, **more: Any) -> str:
        calls[0] |= {**vars(files), "verifier": verifier, "template": template, "limit": limit}
        calls[0] |= {name: more[name] for name in ("bos", "threshold", "errors")}
        return "task"

    def handed_over(experiment: Any, kind: str) -> Any:
        calls[0] |= {kind: "given"}
        return load_policy("tiny")

    monkeypatch.setattr(start, "load_policy", policy)
    monkeypatch.setattr(start, "get_task", lambda name, *of_policy: calls[0].update(task=name))
    monkeypatch.setattr(start, "get_verifier", lambda name, workers, **more: (name, *more.values()))
    monkeypatch.setattr(start, "FileTask", from_files)
    monkeypatch.setattr(start, "_given", handed_over)
    recipes = [Recipe.load("tiny").set(**{"grid": "unset", **given, **more}) for more in ({}, {path: value})]
    if path.endswith("digest"):  # it names what was handed over, so all that it changes is the experiment's identity
        assert recipes[0].hash != recipes[1].hash
    for recipe in recipes:
        start.load_policy_and_task(recipe.expand()[0].config, torch.device("cpu"))
        calls.reverse()
    b, a = calls
    assert b.keys() == a.keys()
    assert {name for name in b if b[name] != a[name]} == changed
    assert all(str(value) in str(a[name]) for name in changed)
