"""The page that compares verl with our own loop, from curves made by hand."""

from __future__ import annotations

import pytest

from docs.generators.templates import StatementError
from docs.generators.verl_page import verl_page
from docs.generators.verl_runs import VERL

from .made_curves import made


def test_the_page_says_that_equal_curves_are_equal() -> None:
    page = verl_page(made(VERL))
    assert "All 18 intervals together hold with 95%" in page
    assert "**Every one does.**" in page
    assert page.count("| NSR, `adv_estimator=nsr`") == 9
    assert "verl's GRPO against the loop's NSR" in page
    assert "with torch 2, transformers 5 and verl 0.9.1" in page


def test_a_page_whose_curves_differ_cannot_be_written() -> None:
    with pytest.raises(StatementError, match="verl_and_the_loop: expected every interval to contain 0, got others for"):
        verl_page(made(VERL, shift=0.1))


def test_a_page_whose_rule_could_not_fail_cannot_be_written() -> None:
    with pytest.raises(StatementError, match="expected the control to be told apart"):
        verl_page(made(VERL, apart=0.0))
