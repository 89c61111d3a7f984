"""Contexts: how they are drawn, what is recorded of them against slow definitions, that looking changes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from analysis import UsageError
from analysis.probes import ContextProbe, ContextRows, draw_contexts
from analysis.records import Run, RunWriter, load_trace
from analysis.records.encoding import record_batch
from analysis.records.schema import BUCKETS, SHARES
from tests.probes.conftest import VOCAB, make_logits_fn, make_model
from tests.records.rows import RUN_JSON


def responses(count: int, seed: int, longest: int = 6) -> tuple[list[list[int]], list[list[int]], list[str]]:
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int) -> list[int]:
        length = int(torch.randint(low, longest + 1, (1,), generator=generator))
        return torch.randint(VOCAB, (length,), generator=generator).tolist()

    return [ids(1) for _ in range(count)], [ids(1) for _ in range(count)], [f"p{i}" for i in range(count)]


def drawn(kind: Any, number: int, seed: int, count: int = 40, **fields: Any) -> ContextRows:
    return draw_contexts(kind, *responses(count, seed), number, torch.Generator().manual_seed(seed), **fields)


class Counting:
    """A logits function that counts its calls."""

    def __init__(self, model: nn.Module) -> None:
        self.calls, self._logits = 0, make_logits_fn(model)

    def __call__(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Tensor:
        self.calls += 1
        return self._logits(prompts, responses)


def move(model: nn.Module, scale: float, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    step = {n: scale * torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in model.named_parameters()}
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.add_(step[name])
    return step


def test_draw_takes_the_number_from_both_signs_in_turn() -> None:
    signs = [1, -1, -1, -1] * 10
    rows = drawn("batch", 32, 3, signs=signs, rollouts=range(40), step=7)
    assert len(rows) == sum(map(len, rows.positions)) == len(rows.tokens) == 32
    assert rows.signs is not None
    assert rows.rollouts is not None
    assert rows.signs[:6] == [1, -1, 1, -1, 1, -1]
    assert [signs[r] for r in rows.rollouts] == rows.signs
    prompts, given, prompt_ids = responses(40, 3)
    for i, rollout in enumerate(rows.rollouts):
        row = rows.prompts[i], rows.responses[i], rows.prompt_ids[i]
        assert row == (prompts[rollout], given[rollout], prompt_ids[rollout])
        assert rows.positions[i] == sorted(set(rows.positions[i]))
        assert all(0 <= at < len(given[rollout]) for at in rows.positions[i])
    assert len(set(rows.rollouts)) == len(rows.rollouts)


def test_draw_spreads_over_long_responses_and_makes_do_with_few() -> None:
    long = draw_contexts("panel", [[1]] * 9, [list(range(50))] * 9, ["a"] * 9, 16, torch.Generator().manual_seed(0))
    assert [len(at) for at in long.positions] == [2] * 8
    assert len({tuple(at) for at in long.positions}) > 1
    few = draw_contexts("batch", [[1], [2]], [[3, 4], []], ["a", "b"], 16, torch.Generator(), signs=[-1, -1])
    assert few.positions == [[0, 1]]
    assert few.signs == [-1]
    assert len(draw_contexts("batch", [], [], [], 16, torch.Generator())) == 0


def test_draw_follows_its_generator_alone() -> None:
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    assert drawn("batch", 20, 3) == drawn("batch", 20, 3)
    assert drawn("batch", 20, 3).responses != drawn("batch", 20, 4).responses
    assert torch.equal(state, torch.random.get_rng_state())


def test_draw_refuses_ragged_arguments() -> None:
    with pytest.raises(UsageError, match=r"signs: expected 40 entries, one per response, got 3"):
        drawn("batch", 4, 0, signs=[1, 1, -1])


def reference(z: list[float], after: list[float], y: int, temperature: float, top_k: int) -> dict[str, Any]:
    """What `flows` holds of one context, from the definitions, one number at a time."""

    def law(logits: list[float]) -> list[float]:
        top = max(logits)
        total = sum(math.exp((v - top) / temperature) for v in logits)
        return [math.exp((v - top) / temperature) / total for v in logits]

    p, q = law(z), law(after)
    order = sorted(range(len(p)), key=lambda v: (-z[v], v))
    bucket = [0] * len(p)
    for rank, v in enumerate(order, start=1):
        bucket[v] = sum(rank > edge for edge in BUCKETS)
    inside = [[v for v in range(len(p)) if bucket[v] == b] for b in range(len(BUCKETS) + 1)]
    tops = [order[:top_k], sorted(range(len(q)), key=lambda v: (-after[v], v))[:top_k], [y]]
    top_ids = list(dict.fromkeys(v for top in tops for v in top))
    out: dict[str, Any] = {
        "one_minus_prob_before": sum(p[v] for v in range(len(p)) if v != y),
        "direction_norm_before": math.sqrt(sum(((v == y) - p[v]) ** 2 for v in range(len(p)))),
        "argmax_token_before": order[0],
        "bucket_mass_before": [sum(p[v] for v in b) for b in inside],
        "bucket_mass_after": [sum(q[v] for v in b) for b in inside],
        "bucket_mass_sq_before": [sum(p[v] ** 2 for v in b) for b in inside],
        "token_bucket": bucket[y],
        "tv": sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2,
        "kl": sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)),
        "top_ids": top_ids,
        "top_prob_before": [p[v] for v in top_ids],
        "top_prob_after": [q[v] for v in top_ids],
        "top_dlogit": [after[v] - z[v] for v in top_ids],
    }
    for when, r in (("before", p), ("after", q)):
        out[f"log_prob_{when}"] = math.log(r[y])
        out[f"entropy_{when}"] = -sum(v * math.log(v) for v in r)
        out[f"collision_{when}"] = sum(v * v for v in r)
        out[f"collision_log_prob_{when}"] = sum(v * v * math.log(v) for v in r)
        out[f"argmax_prob_{when}"] = max(r)
    return out


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_flows_and_contexts_equal_their_definitions(temperature: float) -> None:
    model = make_model(torch.float64)
    logits_fn = make_logits_fn(model)
    panel, batch = drawn("panel", 5, 1), drawn("batch", 7, 2, signs=[1, -1] * 20, rollouts=range(40), step=3)
    probe = ContextProbe(logits_fn, panel=panel, temperature=temperature, top_k=3)
    contexts = [row for columns in probe.before(9, batch) for row in record_batch("contexts", columns).to_pylist()]
    singles = [(rows, i, at) for rows in (panel, batch) for i, ats in enumerate(rows.positions) for at in ats]

    def dense() -> list[list[float]]:
        """Each context by a pass of its own over its prefix."""
        with torch.no_grad():
            return [logits_fn([[*r.prompts[i], *r.responses[i][:at]]], [[0]])[0, 0].tolist() for r, i, at in singles]

    z = dense()
    move(model, 0.02, seed=4)
    after = dense()
    weights = [[0.5 * at - 1 for at in ats] for ats in batch.positions]
    (columns,) = probe.after(9, weights=weights)
    flows = record_batch("flows", columns).to_pylist()

    assert len(flows) == len(contexts) == 12
    for n, (row, context, (rows, i, at)) in enumerate(zip(flows, contexts, singles, strict=True)):
        y = rows.responses[i][at]
        is_batch = rows is batch
        assert context == {
            "context": n,
            "kind": rows.kind,
            "prompt_id": rows.prompt_ids[i],
            "prefix_ids": rows.prompts[i] + rows.responses[i][:at],
            "token": y,
            "step": 3 if is_batch else None,
            "rollout": rows.rollouts[i] if is_batch and rows.rollouts else None,
            "position": at,
            "sign": rows.signs[i] if is_batch and rows.signs else None,
        }
        assert row.pop("update") == 9
        assert row.pop("context") == n
        assert row.pop("weight") == (0.5 * at - 1 if is_batch else None)
        jvp = ("dlog_prob", "dentropy", "bucket", "dlog_prob_shares", "dentropy_shares")
        assert [row.pop(f"jvp_{name}") for name in jvp] == [None] * 5
        expected = reference(z[n], after[n], y, temperature, top_k=3)
        assert row.keys() == expected.keys()
        for name, value in expected.items():  # records are float32
            assert row[name] == pytest.approx(value, rel=3e-7, abs=1e-10), name


def test_an_update_that_moves_nothing(model: nn.Module) -> None:
    probe = ContextProbe(make_logits_fn(model), panel=drawn("panel", 8, 1))
    probe.before(0)
    row = record_batch("flows", probe.after(0)[0]).to_pandas()
    assert (row["tv"] == 0).all()
    assert (row["kl"] == 0).all()
    assert (row["log_prob_after"] == row["log_prob_before"]).all()
    assert all((d == 0).all() for d in row["top_dlogit"])


def test_the_panel_is_looked_at_once_where_updates_follow_each_other(model: nn.Module) -> None:
    counting = Counting(model)
    probe = ContextProbe(counting, panel=drawn("panel", 8, 1))
    calls = []
    for update in (0, 1, 2, 4, 5):
        before = counting.calls
        probe.before(update, drawn("batch", 8, 10 + update))
        move(model, 1e-3, update)
        probe.after(update)
        calls.append(counting.calls - before)
    assert calls == [4, 3, 3, 4, 3]  # a gap in the updates may hide a step that was not seen


def follow(
    folder: Path, model: nn.Module, updates: range, *, interrupt_at: int | None = None, scale: float = 1e-3
) -> Run:
    writer = RunWriter(folder, run_json=RUN_JSON)
    probe = ContextProbe(make_logits_fn(model), panel=drawn("panel", 8, 1))
    for update in updates:
        if update == interrupt_at:
            state = probe.state_dict()
            writer.commit(update, {"probe": state})
            writer = RunWriter(folder, run_json=RUN_JSON, resume=True)
            probe = ContextProbe(make_logits_fn(model))
            stored = writer.resume_state()
            assert stored is not None
            probe.load_state_dict(stored[1]["probe"])
        for columns in probe.before(update, drawn("batch", 8, 10 + update, signs=[1, -1] * 20)):
            writer.append("contexts", columns)
        start = {name: value.detach().clone() for name, value in model.named_parameters()}
        step = move(model, scale, update)
        if update % 2:
            probe.jvp(model, start, step)
        for columns in probe.after(update):
            writer.append("flows", columns)
    writer.commit(99, {})
    run = load_trace(folder)
    assert isinstance(run, Run)
    return run


def test_resuming_gives_the_same_bits(tmp_path: Path) -> None:
    runs = [follow(tmp_path / str(at), make_model(), range(4), interrupt_at=at) for at in (None, 1, 2)]
    for name in ("contexts", "flows"):
        tables = [run.table(name, as_="arrow").combine_chunks() for run in runs]
        assert tables[0].equals(tables[1])
        assert tables[0].equals(tables[2])
    contexts = runs[0].table("contexts")
    assert contexts["context"].tolist() == list(range(8 + 4 * 8))
    assert contexts["kind"].tolist() == ["panel"] * 8 + ["batch"] * 32


def test_the_jvp_is_recorded_beside_the_realised_change(tmp_path: Path) -> None:
    flows = follow(tmp_path, make_model(torch.float64), range(4), scale=2e-4).table("flows")
    assert flows.loc[flows["update"] % 2 == 0, "jvp_dlog_prob"].isna().all()
    seen = flows[flows["update"] % 2 == 1]
    realised = seen["log_prob_after"] - seen["log_prob_before"]
    assert (seen["jvp_dlog_prob"] - realised).abs().max() < 0.02 * realised.abs().max()
    entropy = seen["entropy_after"] - seen["entropy_before"]
    assert (seen["jvp_dentropy"] - entropy).abs().max() < 0.02 * entropy.abs().max()
    jvp, before, after = (np.stack(seen[name]) for name in ("jvp_bucket", "bucket_mass_before", "bucket_mass_after"))
    assert abs(jvp.sum(1)).max() < 1e-7  # mass is conserved
    assert abs(after - before - jvp).max() < 0.02 * abs(after - before).max()


def test_the_jvp_is_that_of_the_distribution_at_the_temperature() -> None:
    model = make_model(torch.float64)
    probe = ContextProbe(make_logits_fn(model), panel=drawn("panel", 8, 1), temperature=0.7)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    probe.before(0)
    step = move(model, 2e-4, 5)
    probe.jvp(model, start, step)
    (flows,) = probe.after(0)
    for name in ("log_prob", "entropy"):
        realised = flows[f"{name}_after"] - flows[f"{name}_before"]
        # The second order of the step is about 1% of the first; records are float32.
        assert (flows[f"jvp_d{name}"] - realised).abs().max() < 0.02 * realised.abs().max(), name


def test_the_jvp_of_each_part_is_recorded_in_its_place() -> None:
    model = make_model(torch.float64)
    probe = ContextProbe(make_logits_fn(model), panel=drawn("panel", 8, 1), temperature=0.7)
    rows: dict[str, list[Any]] = {}
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    names = [name for name in SHARES if name not in ("reg_now", "decay_past")]
    parts = {name: move(model, 1e-3, seed) for seed, name in enumerate(names)}
    whole = {name: value - start[name] for name, value in model.named_parameters()}
    alone: dict[str, Tensor] = {}
    for update, (name, step) in enumerate([("whole", whole), *parts.items()]):
        with torch.no_grad():
            for parameter, value in model.named_parameters():
                value.copy_(start[parameter])
        probe.before(update)
        probe.jvp(model, start, step, parts if name == "whole" else None)
        columns = probe.after(update)[0]
        if name == "whole":
            rows = {column: columns[f"jvp_{column}_shares"] for column in ("dlog_prob", "dentropy")}
        for column in rows:
            alone[f"{name} {column}"] = columns[f"jvp_{column}"]
    for column, shares in rows.items():
        assert shares.shape == (8, len(SHARES))
        for at, name in enumerate(SHARES):
            expected = alone.get(f"{name} {column}", torch.zeros(8))
            torch.testing.assert_close(shares[:, at], expected, rtol=1e-6, atol=1e-9)  # stored as float32
        torch.testing.assert_close(shares.sum(1), alone[f"whole {column}"], rtol=1e-5, atol=1e-8)


def test_a_step_without_parts_has_shares_of_zero(model: nn.Module) -> None:
    probe = ContextProbe(make_logits_fn(model), panel=drawn("panel", 4, 1))
    probe.before(0)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    probe.jvp(model, start, {}, {})
    row = record_batch("flows", probe.after(0)[0]).to_pandas()
    assert (np.stack(row["jvp_dlog_prob_shares"]) == np.zeros((4, len(SHARES)))).all()


def test_looking_changes_nothing(model: nn.Module) -> None:
    logits_fn = make_logits_fn(model)
    logits_fn([[1, 2]], [[3]]).square().sum().backward()
    before = {n: (p.detach().clone(), p.grad.clone(), p._version) for n, p in model.named_parameters()}
    training = [module.training for module in model.modules()]
    torch.manual_seed(5)
    random = torch.random.get_rng_state()
    probe = ContextProbe(logits_fn, panel=drawn("panel", 8, 1))
    probe.before(0, drawn("batch", 8, 2))
    probe.jvp(model, {n: p[0] for n, p in before.items()}, {n: 1e-3 * p[0] for n, p in before.items()})
    probe.after(0)
    for name, value in model.named_parameters():
        data, grad, version = before[name]
        assert torch.equal(value, data)
        assert torch.equal(value.grad, grad)
        assert value._version == version
    assert torch.equal(random, torch.random.get_rng_state())
    assert torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == training


def test_order_of_calls_and_weights_are_checked(model: nn.Module) -> None:
    probe = ContextProbe(make_logits_fn(model), panel=drawn("panel", 4, 1))
    with pytest.raises(ValueError, match=r"update: expected None, the one that before\(\) was called for, got 0"):
        probe.after(0)
    batch = drawn("batch", 4, 2)
    probe.before(0, batch)
    with pytest.raises(ValueError, match=r"update: expected 0, .* got 1"):
        probe.after(1)
    with pytest.raises(ValueError, match=r"weights: expected rows of \[.*\], as the batch's contexts, got"):
        probe.after(0, weights=[[1.0]])


def test_nothing_to_follow(model: nn.Module) -> None:
    probe = ContextProbe(make_logits_fn(model))
    assert probe.before(0) == []
    probe.jvp(model, {}, {})
    assert probe.after(0) == []
