"""Short reprs: shapes for what is large, values for what is small, never more than a few lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis.common.short_repr import short_repr, short_text


@short_repr
class Pair(NamedTuple):
    values: torch.Tensor
    name: str


@short_repr
@dataclass(frozen=True)
class Nested:
    pair: Pair
    table: pd.DataFrame
    hidden: int = field(default=3, repr=False)


def test_arrays_and_tables_are_named_by_their_shape() -> None:
    pair = Pair(torch.zeros(3, 4), "a" * 100)
    assert repr(pair) == f"Pair(values=tensor(3, 4) float32, name='{'a' * 59}…')"
    assert repr(Nested(Pair(torch.tensor(0.5), "b"), pd.DataFrame({"x": range(5000)}))) == (
        "Nested(pair=Pair(values=tensor(0.5000), name='b'), table=DataFrame(5,000 rows, 1 columns))"
    )
    assert short_text(np.zeros(2, bool)) == "array(2) bool"
    assert short_text(np.float32(0.25)) == "np.float32(0.25)"
    assert short_text(pd.Series([1, 2])) == "Series(2) int64"
    assert short_text(len) == "len"


@given(
    st.recursive(st.text() | st.integers() | st.none(), lambda kids: st.lists(kids) | st.dictionaries(st.text(), kids))
)
def test_a_text_is_one_line(value: Any) -> None:
    assert "\n" not in short_text(value)
