"""One loss out of many: each normaliser, by our name and by those of TRL and verl, against sums written out."""

from __future__ import annotations

import pytest
import torch

from analysis.errors import UsageError
from analysis.objectives.aggregation import NORMALIZER_ALIASES, NORMALIZERS, aggregate
from analysis.objectives.correspondence import CORRESPONDENCE

B, T = 4, 6
LENGTHS = (3, 6, 1, 4)
SELECTED = (True, False, True, True)


def losses() -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.randn(B, T, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
    return values.masked_fill(~mask, torch.nan), mask  # what lies behind the end does not count


def rows() -> list[list[float]]:
    values, _ = losses()
    return [values[i, :n].tolist() for i, n in enumerate(LENGTHS)]


def total() -> float:
    return sum(map(sum, rows()))


@pytest.mark.parametrize(
    ("how", "constant", "expected"),
    [
        ("batch_tokens", None, lambda: total() / sum(LENGTHS)),
        ("token-mean", None, lambda: total() / sum(LENGTHS)),
        ("bnpo", None, lambda: total() / sum(LENGTHS)),
        ("selected_tokens", None, lambda: total() / (3 + 1 + 4)),
        ("per_sequence", None, lambda: sum(sum(row) / len(row) for row in rows()) / B),
        ("seq-mean-token-mean", None, lambda: sum(sum(row) / len(row) for row in rows()) / B),
        ("constant", 7.0, lambda: total() / 7),
        ("seq-mean-token-sum", float(B), lambda: sum(sum(row) for row in rows()) / B),
        ("seq-mean-token-sum-norm", float(B * T), lambda: sum(sum(row) for row in rows()) / B / T),
    ],
)
def test_each_normaliser(how: str, constant: float | None, expected: object) -> None:
    values, mask = losses()
    found = aggregate(values, mask, how, selected=torch.tensor(SELECTED), constant=constant)
    assert callable(expected)
    assert float(found) == pytest.approx(expected(), rel=1e-12)


def test_the_table_names_every_normaliser_and_alias() -> None:
    text = " ".join(" ".join(row) for row in CORRESPONDENCE)
    for name in (*NORMALIZERS, *NORMALIZER_ALIASES):
        assert f"= {name}" in text, name


def test_a_response_without_tokens_adds_nothing_and_counts_among_the_responses() -> None:
    values, mask = losses()
    mask[1] = False
    found = aggregate(values, mask, "per_sequence")
    assert float(found) == pytest.approx(sum(sum(row) / len(row) for i, row in enumerate(rows()) if i != 1) / B)


def test_bad_input() -> None:
    values, mask = losses()
    with pytest.raises(UsageError, match="normalizer: unknown value 'token_mean'; did you mean token-mean"):
        aggregate(values, mask, "token_mean")
    with pytest.raises(UsageError, match=r"constant: expected one .* got None with constant"):
        aggregate(values, mask, "seq-mean-token-sum")
    with pytest.raises(UsageError, match=r"constant: expected one .* got 2\.0 with batch_tokens"):
        aggregate(values, mask, "bnpo", constant=2.0)
