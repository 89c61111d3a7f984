"""The queries of the page "Trace a billion tokens", as they stand there, against the laws of the package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import Run, UsageError, trace_rollouts
from analysis.records.token_text import spelling_of
from analysis.report.token_classes import token_class
from docs.generators import offline_costs
from tests.offline.small import make_model, make_tokenizer, rows_of

duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed (extra duckdb)")

PAGE = (Path(__file__).parents[2] / "docs/how_to/trace_a_billion_tokens.md").read_text(encoding="utf-8")
VIEW, BELOW, ENTROPY, POSITION, CLASS, PROMPTS = re.findall(r"```sql\n(.*?)```", PAGE, flags=re.S)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "mine"
    rows = [row | {"step": i // 20} for i, row in enumerate(rows_of(40))]
    model = make_model(scale=0.8)
    return trace_rollouts(model, make_tokenizer(), rows, out=out, record_columns="core")


@pytest.fixture(scope="module")
def connection(run: Run) -> Any:
    """What the page's Python block makes, with its view."""
    block = next(
        code for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.S) if "CREATE TABLE classes" in code
    )
    names: dict[str, Any] = {}
    exec(block.replace("runs/mine", str(run.folder)), names)
    made = names["connection"]
    made.execute(VIEW.replace("runs/mine", str(run.folder)))
    return made


@pytest.fixture(scope="module")
def laws(run: Run) -> Any:
    """The tokens with dH of their own signs: those of psr and of nsr."""
    both = [run.laws(name) for name in ("psr-log", "nsr-log")]
    frame = both[0].assign(dentropy=both[0]["dentropy"] + both[1]["dentropy"])
    rollouts = run.table("rollouts", ["step", "rollout", "reward", "prompt_id"])
    frame = frame.merge(rollouts, on=["step", "rollout"], validate="many_to_one")
    spelling = spelling_of(run)
    classes = [token_class(spelling(token)) for token in frame["token"]]
    return frame.assign(sign=np.where(frame["reward"] > 0.5, 1, -1), classes=classes)


def test_the_share_below_the_squeeze_boundary(connection: Any, laws: Any) -> None:
    found = connection.execute(BELOW).df().set_index("sign")
    assert sorted(found.index) == [-1, 1]
    for sign, tokens in laws.groupby("sign"):
        assert found.loc[sign, "tokens"] == len(tokens)
        assert found.loc[sign, "below_boundary"] == pytest.approx((tokens["squeeze_boundary"] > 0).mean())
    assert 0 < found.loc[-1, "below_boundary"] < 1


def test_the_effect_on_entropy(connection: Any, laws: Any) -> None:
    found = connection.execute(ENTROPY).df().set_index("sign")
    for sign, tokens in laws.groupby("sign"):
        assert found.loc[sign, "mean_dentropy"] == pytest.approx(tokens["dentropy"].mean(), rel=1e-5)
        assert found.loc[sign, "total_dentropy"] == pytest.approx(tokens["dentropy"].sum(), rel=1e-5)
        assert found.loc[sign, "raises_entropy"] == pytest.approx((tokens["dentropy"] > 0).mean())


def test_by_position_and_by_class(connection: Any, laws: Any) -> None:
    for query, key, values in (
        (POSITION, "from_position", laws["position"] // 32 * 32),
        (CLASS, "class", laws["classes"]),
    ):
        found = connection.execute(query).df().set_index([key, "sign"])
        groups = laws.groupby([values, "sign"])
        assert len(found) == len(groups)
        for place, tokens in groups:
            assert found.loc[place, "tokens"] == len(tokens)
            assert found.loc[place, "mean_dentropy"] == pytest.approx(tokens["dentropy"].mean(), rel=1e-5)
            assert found.loc[place, "below_boundary"] == pytest.approx((tokens["squeeze_boundary"] > 0).mean())


def test_the_prompts_that_move_the_entropy_most(connection: Any, laws: Any) -> None:
    found = connection.execute(PROMPTS).df()
    expected = laws.groupby("prompt_id")["dentropy"].sum()
    assert found["total_dentropy"].to_numpy() == pytest.approx(expected[found["prompt_id"]].to_numpy(), rel=1e-5)
    assert found["prompt_id"][0] == expected.abs().idxmax()
    assert found["responses"].sum() == 40


def test_costs_are_those_of_a_trace_with_all_columns(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_costs, "_ROLLOUTS", 30)
    rows = [row | {"response": " ".join(row["response"].split())} for row in rows_of(40)]
    full = trace_rollouts(make_model(), make_tokenizer(), rows, out=tmp_path / "full")
    costs = offline_costs.offline_costs(full.folder)
    assert costs["tokens"] == full.rows("tokens")
    sizes = costs["bytes"]
    (stored,) = [path.stat().st_size for path in (full.folder / "tokens").iterdir()]
    assert sizes["full"] == pytest.approx(stored / full.rows("tokens"))
    assert sizes["core"] < sizes["without_top"] < sizes["full"]
    assert all(seconds > 0 for seconds in costs["reading_seconds"].values())
    with pytest.raises(UsageError, match=r"offline: expected the folder of an offline trace with all columns, got"):
        offline_costs.offline_costs(run.folder)
