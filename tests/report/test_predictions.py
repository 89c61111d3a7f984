"""1 − R² and shares over training against slow loops, and their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.records.schema import SHARES
from analysis.report.prediction_curves import (
    early_and_late,
    median_relative_error,
    shares_over_time,
    unexplained,
    unexplained_between,
)


def flows(
    *,
    label: str = "PSR",
    seeds: Sequence[int] = (0,),
    updates: int = 6,
    prompts: int = 7,
    noise: float = 0.3,
    common: float = 0.5,
    draw: int = 0,
) -> pd.DataFrame:
    """Contexts whose realised change is the JVP and noise, part of its variance common to a prompt; every second update
    has a JVP."""
    rng = np.random.default_rng(draw)
    rows = []
    for seed in seeds:
        of_prompt = rng.normal(size=(2, prompts)) * noise * np.sqrt(common)
        for update in range(updates):
            for context in range(3 * prompts):
                prompt, group = context % prompts, context % 3
                shares = rng.normal(size=(2, len(SHARES))) / np.sqrt(len(SHARES))
                shares[:, SHARES.index("reg_now")] = shares[:, SHARES.index("reg_past")] = 0
                jvp = shares.sum(1)
                realised = jvp + of_prompt[:, prompt] + noise * np.sqrt(1 - common) * rng.normal(size=2)
                known = update % 2 == 0
                row = {
                    "label": label,
                    "seed": seed,
                    "update": update,
                    "prompt_id": f"p{prompt}",
                    "kind": "panel" if group == 2 else "batch",
                    "sign": [1, -1, None][group],
                }
                for i, name in enumerate(("dlog_prob", "dentropy")):
                    row |= {
                        name: realised[i],
                        f"jvp_{name}": jvp[i] if known else np.nan,
                        f"jvp_{name}_shares": shares[i] if known else np.full(len(SHARES), np.nan),
                    }
                rows.append(row)
    return pd.DataFrame(rows).astype({"sign": "Int8"})


def r2(rows: pd.DataFrame, column: str) -> float:
    r, j = rows[column].to_numpy(), rows[f"jvp_{column}"].to_numpy()
    return 1 - ((r - j) ** 2).sum() / ((r - r.mean()) ** 2).sum()


@pytest.mark.parametrize("column", ["dlog_prob", "dentropy"])
def test_r2_of_one_seed_has_no_interval(column: str) -> None:
    """However many prompts there are: single contexts may carry most of it."""
    rows = flows(prompts=150)
    known = rows[rows["jvp_dlog_prob"].notna()]
    found = unexplained_between(rows, column)
    assert found.estimate == pytest.approx(1 - r2(known, column), rel=1e-9)
    assert np.isnan([found.low, found.high]).all()
    assert "single contexts carry most of 1 − R²" in found.reason
    error = np.abs(known[column] - known[f"jvp_{column}"]) / np.abs(known[column])
    assert median_relative_error(rows, column) == pytest.approx(np.median(error))


def test_several_seeds_are_the_unit() -> None:
    rows = flows(seeds=(0, 1, 2))
    logs = [np.log(1 - r2(of[of["jvp_dlog_prob"].notna()], "dlog_prob")) for _, of in rows.groupby("seed")]
    found = unexplained_between(rows, "dlog_prob")
    middle, half = np.mean(logs), 1.07 * stats.t.ppf(0.975, 2) * np.std(logs, ddof=1) / np.sqrt(3)  # three seeds
    assert found.estimate == pytest.approx(np.exp(middle))
    assert (found.low, found.high) == pytest.approx((np.exp(middle - half), np.exp(middle + half)))


def test_a_perfect_prediction_is_not_infinite() -> None:
    perfect = unexplained_between(flows(noise=0.0), "dlog_prob")
    assert 0 < perfect.estimate < 1e-8


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_changes_that_are_all_equal_have_no_r2(seeds: tuple[int, ...]) -> None:
    assert np.isnan(unexplained_between(flows(seeds=seeds).assign(dlog_prob=0.1), "dlog_prob").estimate)


def test_curves_take_successive_updates_together() -> None:
    rows = pd.concat([flows(updates=30, prompts=48), flows(label="GRPO", updates=4, draw=1)])
    data = unexplained(rows)
    psr = data[(data["label"] == "PSR") & (data["quantity"] == "log π(y)")]
    # 15 updates with a JVP, 0 to 28, in six parts of 3, 3, 3, 2, 2, 2
    assert psr["update"].tolist() == [2, 8, 14, 19, 23, 27]
    assert data.loc[data["label"] == "GRPO", "update"].tolist() == [0, 0, 2, 2]
    third = rows[(rows["label"] == "PSR") & rows["update"].isin([12, 14, 16])]
    assert psr["value"].iloc[2] == pytest.approx(1 - r2(third, "dlog_prob"), rel=1e-9)
    data = shares_over_time(rows)
    assert set(data["contexts"]) == {"rewarded", "unrewarded", "panel"}
    assert set(data["part"]) == {"pos", "neg", "decay", "history"}  # no regulariser anywhere
    one = data[(data["label"] == "PSR") & (data["contexts"] == "unrewarded") & (data["update"] == 14)]
    at = third[third["sign"] == -1]
    shares = dict(zip(SHARES, np.stack(at["jvp_dlog_prob_shares"].tolist()).T, strict=True))
    whole = at["jvp_dlog_prob"].to_numpy()
    parts = {source: shares[f"{source}_now"] + shares[f"{source}_past"] for source in ("pos", "neg", "decay")}
    parts["history"] = sum(values for name, values in shares.items() if name.endswith("_past"))
    for part, values in parts.items():
        row = one[one["part"] == part].iloc[0]
        assert row["value"] == pytest.approx((values @ whole) / (whole @ whole), rel=1e-9)
        assert row["low"] < row["value"] < row["high"]
    sources = one[one["part"] != "history"]["value"].sum()
    assert sources == pytest.approx(1, rel=1e-9)


def test_early_and_late_are_thirds_of_the_updates_with_a_jvp() -> None:
    early, late = early_and_late(flows(updates=14))
    assert (set(early["update"]), set(late["update"])) == ({0, 2}, {10, 12})
    early, late = early_and_late(flows(updates=2))
    assert set(early["update"]) == set(late["update"]) == {0}
