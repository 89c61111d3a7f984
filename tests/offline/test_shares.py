"""Shares of a file: together they are the whole, with whole groups and about equal numbers of tokens."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis import UsageError, trace_rollouts
from tests.offline.small import make_model, make_tokenizer, rows_of


def test_shares_are_the_whole_in_parts(tmp_path: Path) -> None:
    rows = rows_of(80)
    whole = trace_rollouts(make_model(), make_tokenizer(), rows, out=tmp_path / "whole")
    shares = [
        trace_rollouts(make_model(), make_tokenizer(), rows, out=tmp_path / str(i), share=f"{i}/3") for i in range(3)
    ]
    key = ["step", "rollout"]
    rollouts = pd.concat([share.table("rollouts") for share in shares]).sort_values(key).reset_index(drop=True)
    assert rollouts.equals(whole.table("rollouts"))
    owners = [set(share.table("rollouts")["group"]) for share in shares]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 20
    tokens = pd.concat([share.table("tokens", [*key, "position", "log_prob"]) for share in shares])
    tokens = tokens.sort_values([*key, "position"]).reset_index(drop=True)
    expected = whole.table("tokens", [*key, "position", "log_prob"])
    assert tokens[[*key, "position"]].equals(expected[[*key, "position"]])
    assert (tokens["log_prob"] - expected["log_prob"]).abs().max() < 2e-5
    sizes = [share.rows("tokens") for share in shares]
    assert max(sizes) - min(sizes) < 120  # a group has 4 responses of at most 19 tokens, and its prompt counts too
    assert "Share 1 of 3 (from 0): " in "".join(shares[1].info["trace"]["notes"])


@pytest.mark.parametrize("share", ["3/3", "1", "-1/2", "a/b", "1/0"])
def test_shares_that_are_none(tmp_path: Path, share: str) -> None:
    with pytest.raises(UsageError, match=r"share: expected NUMBER/COUNT with numbers from 0, .*, got"):
        trace_rollouts(make_model(), make_tokenizer(), rows_of(8), out=tmp_path / "a", share=share)


def test_more_shares_than_groups(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"share: expected at most 2 shares, one for each group of responses, got 3"):
        trace_rollouts(make_model(), make_tokenizer(), rows_of(8), out=tmp_path / "a", share="0/3")
