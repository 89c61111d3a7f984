"""First-order columns against finite differences of dense distributions; the summary against planted relations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from analysis import UsageError
from analysis.laws import dense_statistics
from analysis.probes import ContextProbe, ContextRows
from analysis.records import Run, RunWriter, load_trace, prediction_summary
from analysis.records.schema import BUCKETS
from tests.records.rows import RUN_JSON, some_rows

VOCAB = 150  # five of the six rank buckets hold tokens
STATISTICS = ("log_prob", "one_minus_prob", "entropy", "collision", "collision_log_prob", "direction_norm")


def opened(folder: Path) -> Run:
    run = load_trace(folder)
    assert isinstance(run, Run)
    return run


def dense(logits: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """The quantities whose changes the laws state, from the whole distribution."""
    probs = logits.softmax(-1)
    row = torch.arange(len(tokens))
    own = probs[row, tokens]
    rest = probs.scatter(-1, tokens[:, None], 0) / (1 - own)[:, None]
    parts = {
        "binary": -own * own.log() - (1 - own) * (1 - own).log(),
        "rest": -torch.special.xlogy(rest, rest).sum(-1),
    }
    return {
        "dlog_prob": own.log(),
        "dprob": own,
        "dentropy": -(probs * probs.log()).sum(-1),
        "dentropy_binary": parts["binary"],
        "dentropy_weighted_rest": (1 - own) * parts["rest"],
        "dentropy_rest": parts["rest"],
    }


def write_tokens(
    folder: Path, logits: Tensor, tokens: Tensor, weight: Any, *, temperature: float = 1.0, rollouts: Any = None
) -> Run:
    stats = dense_statistics(logits, tokens, temperature=temperature)
    rows = some_rows("tokens", len(tokens), seed=0) | {name: getattr(stats, name) for name in STATISTICS}
    rows |= {"weight": weight, "token": tokens, "step": 0, "rollout": range(len(tokens)), "old_log_prob": None}
    writer = RunWriter(folder, run_json=RUN_JSON | {"temperature": temperature})
    writer.append("tokens", {k: list(v) if isinstance(v, range) else v for k, v in rows.items()})
    if rollouts is not None:
        writer.append("rollouts", rollouts)
    writer.commit(1, {})
    return opened(folder)


@pytest.fixture
def case() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(40, VOCAB, generator=generator, dtype=torch.float64)
    tokens = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return logits, tokens, torch.randn(40, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_laws_against_central_differences(
    tmp_path: Path, case: tuple[Tensor, Tensor, Tensor], temperature: float
) -> None:
    logits, tokens, weight = case
    run = write_tokens(tmp_path, logits, tokens, weight, temperature=temperature)
    frame = run.laws()
    scaled = logits / temperature
    direction = weight[:, None] * (nn.functional.one_hot(tokens, VOCAB) - scaled.softmax(-1))
    h = 1e-5
    up, down = dense(scaled + h * direction, tokens), dense(scaled - h * direction, tokens)
    for name, value in up.items():
        expected = ((value - down[name]) / (2 * h)).numpy()
        # records are float32, and the moments of a nearly certain token cancel: see analysis.laws.entropy_change
        np.testing.assert_allclose(frame[name], expected, rtol=2e-5, atol=3e-6, err_msg=name)
    np.testing.assert_allclose(
        frame["dentropy_binary"] + frame["dentropy_weighted_rest"], frame["dentropy"], rtol=1e-6, atol=1e-12
    )
    probs = scaled.softmax(-1)
    boundary = (probs.square().sum(-1) - probs[torch.arange(40), tokens]).numpy()
    np.testing.assert_allclose(frame["squeeze_boundary"], boundary, rtol=1e-5, atol=1e-6)
    gradient = direction / temperature
    np.testing.assert_allclose(frame["grad_l1"], gradient.abs().sum(-1), rtol=1e-5)
    np.testing.assert_allclose(frame["grad_l2"], gradient.norm(dim=-1), rtol=1e-5)
    assert frame["weight"].tolist() == weight.float().double().tolist()
    assert len(run.laws(where=[("token", "==", int(tokens[0]))])) == int((tokens == tokens[0]).sum())


def rewarded(**changes: Any) -> dict[str, Any]:
    rows: dict[str, Any] = some_rows("rollouts", 40, seed=1, nulls=False)
    rewards = [float(i % 3 == 0) for i in range(40)]
    # in an order of their own and with groups that do not stand next to each other
    order = np.random.default_rng(0).permutation(40)
    rows |= {
        "step": 0,
        "rollout": order.tolist(),
        "group": (order % 10).tolist(),
        "reward": [rewards[i] for i in order],
    }
    return rows | changes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nsr-ratio", lambda r: np.where(r == 1, 0.0, -1.0)),
        ("psr-ratio", lambda r: np.where(r == 1, 1.0, 0.0)),
        ("reinforce-ratio", lambda r: 2 * r - 1),
        ("grpo", None),
    ],
)
def test_assumed_weights(tmp_path: Path, case: tuple[Tensor, Tensor, Tensor], name: str, expected: Any) -> None:
    logits, tokens, _ = case
    run = write_tokens(tmp_path, logits, tokens, None, rollouts=rewarded())
    rewards = np.array([float(i % 3 == 0) for i in range(40)])
    if expected is None:  # (r − mean) / std within each group of four
        groups = rewards.reshape(4, 10)
        want = ((groups - groups.mean(0)) / groups.std(0, ddof=1)).ravel()
        np.testing.assert_allclose(run.laws(name)["weight"], want, rtol=1e-3)  # its ε in the denominator
    else:
        np.testing.assert_array_equal(run.laws(name)["weight"], expected(rewards))


def test_weights_that_cannot_be_had(tmp_path: Path, case: tuple[Tensor, Tensor, Tensor]) -> None:
    from analysis.objectives import get

    logits, tokens, _ = case
    run = write_tokens(tmp_path / "a", logits, tokens, None, rollouts=rewarded())
    with pytest.raises(UsageError, match=r"objective: expected a name, since no weight of these tokens was"):
        run.laws()
    steps = some_rows("steps", 1, seed=0) | {"n_rollouts": [80]}
    writer = RunWriter(tmp_path / "a", run_json=RUN_JSON, resume=True)
    writer.append("steps", steps)
    writer.commit(2, {})
    with pytest.raises(
        UsageError, match=r"objective: expected every rollout of a step for batch_mean_std, got 40 of 80"
    ):
        opened(tmp_path / "a").laws(get("reinforce-ratio", advantage="batch_mean_std"))
    run = write_tokens(tmp_path / "b", logits, tokens, None, rollouts=rewarded(reward=[None, *[1.0] * 39]))
    with pytest.raises(UsageError, match=r"objective: expected rewards for nsr-ratio, got rollouts without them"):
        run.laws("nsr-ratio")
    run = write_tokens(tmp_path / "c", logits, tokens, None, rollouts=rewarded(group=[0] * 3 + [1] * 37))
    with pytest.raises(UsageError, match=r"objective: expected groups of one size, got groups of \[3, 37\] in step 0"):
        run.laws("nsr-ratio")
    run = write_tokens(tmp_path / "d", logits, tokens, None)
    with pytest.raises(UsageError, match=r"objective: expected the rollout of every token among the recorded"):
        run.laws("nsr-ratio")


class TablePolicy(nn.Module):
    """One row of logits for each prompt: every law holds for it without sharing between contexts."""

    def __init__(self, contexts: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(2 * torch.randn(contexts, VOCAB, generator=generator, dtype=torch.float64))

    def logits(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Tensor:
        return self.table[torch.tensor([prompt[0] for prompt in prompts])][:, None]


def table_run(folder: Path, *, flip: float = 1.0, updates: int = 4, size: float = 0.02) -> Run:
    """Contexts that move along their own direction by `flip · size`: 10 of each sign, 5 of weight 0, 5 of a panel."""
    contexts = 30
    policy = TablePolicy(contexts, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        tokens = torch.multinomial(policy.table.softmax(-1), 1, generator=generator)[:, 0].tolist()
    prompts = [[i] for i in range(contexts)]
    responses = [[token] for token in tokens]

    def rows(kind: Any, low: int, high: int, **fields: Any) -> ContextRows:
        ids = [str(i) for i in range(low, high)]
        return ContextRows(kind, prompts[low:high], responses[low:high], [[0]] * (high - low), ids, **fields)

    signs = [1] * 10 + [-1] * 15
    weights = torch.cat(
        [torch.rand(10, generator=generator) + 0.5, -torch.rand(10, generator=generator) - 0.5, torch.zeros(10)]
    ).double()
    probe = ContextProbe(policy.logits, panel=rows("panel", 25, 30))
    writer = RunWriter(folder, run_json=RUN_JSON)
    for update in range(updates):
        for columns in probe.before(update, rows("batch", 0, 25, signs=signs, rollouts=list(range(25)), step=0)):
            writer.append("contexts", columns)
        start = policy.table.detach().clone()
        one_hot = nn.functional.one_hot(torch.tensor(tokens), VOCAB)
        step = flip * size * weights[:, None] * (one_hot - start.softmax(-1))
        step[20:] = 1e-3 * torch.randn(10, VOCAB, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            policy.table.copy_(start + step)
        if update % 2 == 0:
            probe.jvp(policy, {"table": start}, {"table": step})
        for columns in probe.after(update, weights=[[w] for w in weights[:25].tolist()]):
            writer.append("flows", columns)
    writer.commit(1, {})
    return opened(folder)


def test_flows_put_the_predictions_beside_the_realised_change(tmp_path: Path) -> None:
    size = 1e-3
    flows = table_run(tmp_path, size=size, updates=2).flows()
    assert len(flows) == 60
    assert flows.loc[flows["kind"] == "panel", ["law_dlog_prob", "law_dentropy", "weight"]].isna().all().all()
    assert (flows.loc[flows["weight"] == 0, ["law_dlog_prob", "law_dentropy"]] == 0).all().all()
    assert flows.loc[flows["update"] == 1, "jvp_dlog_prob"].isna().all()
    own = flows[flows["weight"].abs() > 0]
    assert len(own) == 40
    # the policy moved by `size` times the law's direction: realised/size is the law up to order `size`
    np.testing.assert_allclose(own["dlog_prob"] / size, own["law_dlog_prob"], rtol=5e-3, atol=5e-3)
    np.testing.assert_allclose(own["dentropy"] / size, own["law_dentropy"], rtol=5e-3, atol=5e-3)
    realised, law = np.stack(own["dbucket"]), np.stack(own["law_dbucket"])
    assert realised.shape == (40, len(BUCKETS) + 1)
    np.testing.assert_allclose(realised / size, law, rtol=5e-3, atol=2e-3)
    first = flows[flows["update"] == 0]
    np.testing.assert_allclose(first["jvp_dlog_prob"], first["dlog_prob"], rtol=5e-3, atol=5e-6)
    np.testing.assert_allclose(np.stack(first["jvp_bucket"]), np.stack(first["dbucket"]), rtol=5e-3, atol=5e-6)
    context = opened(tmp_path).table("contexts").set_index("context").loc[first["context"]]
    for name in ("token", "prompt_id", "kind"):
        assert first[name].tolist() == context[name].tolist()


def test_summary_of_a_policy_that_obeys_the_law(tmp_path: Path) -> None:
    summary = prediction_summary(table_run(tmp_path, size=0.02))
    by = summary.set_index(["kind", "sign", "weights", "quantity"])
    assert set(summary["quantity"]) == {
        "log_prob",
        "entropy",
        *(f"mass {x}" for x in ("1", "2–4", "5–16", "17–128", "129–1024", "1025+")),
    }
    for sign in (1, -1):
        for quantity in ("log_prob", "entropy"):
            row = by.loc[("batch", sign, "nonzero", quantity)]
            assert row["n"] == row["law_n"] == 40
            assert row["jvp_n"] == 20
            assert row["law_sign_agreement"] == 1
            assert row["law_spearman"] > 0.99
            assert row["law_slope"] == pytest.approx(0.02, rel=0.05)
            assert row["jvp_r2"] > 0.99
            assert row["jvp_slope"] == pytest.approx(1, abs=0.03)
            assert row["jvp_median_relative_error"] < 0.03
    zero = by.loc[("batch", -1, "zero", "log_prob")]
    assert (zero["n"], zero["law_n"], zero["jvp_n"]) == (20, 0, 10)
    assert np.isnan(zero[["law_sign_agreement", "law_spearman", "law_slope"]].astype(float)).all()
    assert zero["jvp_r2"] > 0.99
    panel = summary[(summary["kind"] == "panel") & (summary["quantity"] == "entropy")].iloc[0]
    assert pd.isna(panel["sign"])
    assert (panel["weights"], panel["n"], panel["law_n"]) == ("unmeasured", 20, 0)
    empty_bucket = by.loc[("batch", 1, "nonzero", "mass 1025+")]
    assert empty_bucket["law_n"] == 0
    assert empty_bucket["realised_median_abs"] == 0


def test_summary_of_a_policy_that_moves_the_other_way(tmp_path: Path) -> None:
    by = table_run(tmp_path, flip=-1.0).prediction_summary().set_index(["kind", "sign", "weights", "quantity"])
    for sign in (1, -1):
        row = by.loc[("batch", sign, "nonzero", "log_prob")]
        assert row["law_sign_agreement"] == 0
        assert row["law_spearman"] < -0.9
        assert row["law_slope"] == pytest.approx(-0.02, rel=0.05)
        assert row["jvp_r2"] > 0.99


def test_summary_by_ranges_of_updates(tmp_path: Path) -> None:
    run = table_run(tmp_path, updates=5)
    summary = run.prediction_summary(ranges=2)
    ranges = summary[["first_update", "last_update"]].drop_duplicates().to_numpy().tolist()
    assert ranges == [[0, 2], [3, 4]]
    rows = summary[(summary["kind"] == "batch") & (summary["sign"] == 1) & (summary["quantity"] == "log_prob")]
    assert rows["n"].tolist() == [30, 20]
    with pytest.raises(UsageError, match=r"ranges: expected at least 1, got 0"):
        run.prediction_summary(ranges=0)


def test_summary_of_nothing(tmp_path: Path) -> None:
    RunWriter(tmp_path / "a", run_json=RUN_JSON).commit(0, {})
    empty = opened(tmp_path / "a")
    assert empty.prediction_summary().empty
    assert list(empty.prediction_summary().columns) == list(table_run(tmp_path / "b").prediction_summary().columns)
    assert empty.flows().empty
    assert empty.laws().empty
