"""The reward function for verl: values, threads, and bad references."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from toy_models.verifiers import math_reward
from toy_models.verifiers.math_reward import compute_score

PAIRS = [
    (r"so \boxed{0.5}", r"\frac{1}{2}", 1.0),
    (r"so \boxed{\frac{2}{4}}", r"\boxed{\frac{1}{2}}", 1.0),
    (r"so \boxed{50\%}", r"\frac{1}{3}", 0.0),
    ("no answer", "7", 0.0),
    (r"\boxed{(1,2)}", {"target": "(1, 2)", "question": "…"}, 1.0),
    (r"\boxed{x+1}", "1+x", 1.0),
]


@pytest.fixture(autouse=True)
def _children_end() -> object:
    pytest.importorskip("math_verify", reason="math-verify is not installed")
    yield
    for verifier in list(math_reward._verifiers().queue):
        verifier.close()


def test_threads_get_their_own_verdicts_from_two_children() -> None:
    """verl calls it from many threads; each of them with a child of its own would fill the machine."""
    cases = PAIRS * 8
    with ThreadPoolExecutor(6) as pool:
        scores = list(pool.map(lambda case: compute_score("MATH", case[0], case[1], {"index": 0}), cases))
    assert scores == [score for *_, score in cases]
    verifiers = list(math_reward._verifiers().queue)
    assert len(verifiers) == math_reward._CHILDREN  # each was put back
    assert 1 <= sum(len(verifier._pool._idle) for verifier in verifiers) <= math_reward._CHILDREN


def test_a_comparison_without_end_is_wrong_and_the_next_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    from toy_models.verifiers.math_verify_pool import MathVerify

    verifiers = math_reward._verifiers()
    kept = [verifiers.get() for _ in range(verifiers.qsize())]
    verifiers.put(MathVerify(seconds=1))
    start = time.monotonic()
    with ThreadPoolExecutor(1) as pool:  # in a thread, as verl does it
        assert pool.submit(compute_score, "MATH", r"\boxed{9^{9^{9^{9}}}}", r"9^{9^{9^{8}}}+1").result() == 0.0
        assert pool.submit(compute_score, "MATH", r"\boxed{4/2}", "2").result() == 1.0
    assert time.monotonic() - start < 120
    verifiers.get().close()
    for verifier in kept:
        verifiers.put(verifier)


def test_a_reference_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected the reference answer as text.*prepare_data"):
        compute_score("MATH", r"\boxed{1}", {"answer": "1"})
