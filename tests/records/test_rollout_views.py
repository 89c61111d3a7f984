"""Rollouts and tokens to look at: the numbers are those recorded, and what a model wrote is only text."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import UsageError, load_trace
from analysis.records import Run, RunWriter

HOSTILE = "<script>alert('x')</script>"
PROMPT = f'{HOSTILE} "&amp; \u202e\u0007\n'


def token(update: int, position: int, token_id: int, prob: float, weight: float | None) -> dict[str, Any]:
    rest = [0.6 * (1 - prob), 0.4 * (1 - prob)]
    others = [i for i in (3, 4, 5) if i != token_id]
    probs = np.array([prob, *rest])
    return {
        "update": update,
        "step": 0,
        "rollout": 1,
        "position": position,
        "epoch": 0,
        "minibatch": 0,
        "token": token_id,
        "log_prob": float(np.log(prob)),
        "one_minus_prob": 1 - prob,
        "entropy": float(-(probs * np.log(probs)).sum()),
        "collision": float((probs**2).sum()),
        "collision_log_prob": float((probs**2 * np.log(probs)).sum()),
        "direction_norm": 0.5,
        "weight": weight,
        "top_ids": [token_id, *others],
        "top_probs": probs.tolist(),
    }


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """One response of three tokens, seen by two updates; the first of its tokens is followed through update 0."""
    info = dict.fromkeys(["recipe", "hash", "seed"]) | {"run_id": "a", "label": "NSR", "engine": "small"}
    writer = RunWriter(tmp_path / "run", run_json=info | {"temperature": 1.0})
    writer.append(
        "prompts", {"prompt_id": ["p"], "split": ["train"], "text": [PROMPT], "token_ids": [[1, 2]], "answer": [None]}
    )
    rollout = {"rank": 0, "prompt_id": "p", "group": 0, "finished": True, "noise_flipped": False, "dropped": False}
    rollouts = [
        rollout
        | {"step": 0, "rollout": i, "response_ids": ids, "response_text": text, "length": len(ids)}
        | {"reward": reward, "correct": correct}
        for i, ids, text, reward, correct in (
            (0, [3], "w3", 1.0, True),
            (1, [3, 4, 5], f"w3 <b>w4</b> {HOSTILE.replace(' ', '')}", 0.0, False),
        )
    ]
    writer.append("rollouts", columns(rollouts))
    tokens = [token(0, 0, 3, 0.9, -0.5), token(0, 1, 4, 0.05, 0.25), token(0, 2, 5, 0.2, None)]
    writer.append("tokens", columns(tokens + [token(1, i, i + 3, 0.5, -0.1) for i in range(3)]))
    before, after = np.array([0.9, 0.06, 0.04]), np.array([0.85, 0.1, 0.05])
    context = {"context": 7, "kind": "batch", "prompt_id": "p", "prefix_ids": [1, 2], "token": 3}
    writer.append("contexts", columns([context | {"step": 0, "rollout": 1, "position": 0, "sign": -1}]))
    moments = dict.fromkeys(
        f"{name}_{when}"
        for name in ("entropy", "collision", "collision_log_prob", "argmax_prob")
        for when in ("before", "after")
    )
    flow = dict.fromkeys(moments, 0.5) | {
        "update": 0,
        "context": 7,
        "weight": -0.5,
        "log_prob_before": float(np.log(0.9)),
        "log_prob_after": float(np.log(0.85)),
        "one_minus_prob_before": 0.1,
        "direction_norm_before": 0.1,
        "argmax_token_before": 3,
        "bucket_mass_before": [0.9, 0.1, 0, 0, 0, 0],
        "bucket_mass_after": [0.85, 0.15, 0, 0, 0, 0],
        "bucket_mass_sq_before": [0.81, 0.0, 0, 0, 0, 0],
        "token_bucket": 0,
        "tv": 0.05,
        "kl": 0.01,
        "top_ids": [3, 4, 5],
        "top_prob_before": before.tolist(),
        "top_prob_after": after.tolist(),
        "top_dlogit": np.log(after / before).tolist(),
    }
    writer.append("flows", columns([flow]))
    writer.commit(1, {})
    writer.finish("complete")
    read = load_trace(tmp_path / "run")
    assert isinstance(read, Run)
    return read


class Tags(HTMLParser):
    """The names of all elements, with the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        if tag != "wbr":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_rollout_holds_what_was_recorded(run: Run) -> None:
    view = run.rollout(1)
    assert (view.step, view.reward, view.correct, view.update, view.updates) == (0, 0.0, False, 0, (0, 1))
    assert view.tokens["text"].tolist() == ["w3", "<b>w4</b>", HOSTILE]
    assert view.tokens["prob"].tolist() == pytest.approx([0.9, 0.05, 0.2])
    assert view.tokens["squeeze"].tolist() == pytest.approx(
        [p**2 + (1 - p) ** 2 * 0.52 - p for p in (0.9, 0.05, 0.2)], abs=1e-6
    )
    assert view.quantity == "weight"
    assert run.rollout(1, update=1).tokens["prob"].tolist() == pytest.approx([0.5] * 3)
    assert [one.position for one in view] == [0, 1, 2]
    assert repr(view).startswith("RolloutView(run='a', step=0, rollout=1, reward=0.0, correct=False, tokens=3, ")


def test_a_token_that_was_followed_shows_before_and_after(run: Run) -> None:
    followed, other = run.rollout(1)[0], run.rollout(1)[1]
    assert followed.top[["before", "after"]].to_numpy() == pytest.approx(
        np.array([[0.9, 0.85], [0.06, 0.1], [0.04, 0.05]])
    )
    assert followed.top["sampled"].tolist() == [True, False, False]
    assert list(other.top.columns) == ["text", "sampled", "before"]
    assert other.top["before"].is_monotonic_decreasing
    assert other.top.loc[other.top["sampled"], "before"].tolist() == pytest.approx([0.05])
    assert "0.900" in (page := followed._repr_html_())
    assert "0.850 (−0.0500)" in page
    assert repr(followed) == "TokenView('w3', step=0, rollout=1, position=0, prob=0.9, entropy=0.392, weight=−0.5)"
    assert other.prefix == "w3"


@pytest.mark.parametrize(
    ("position", "words"),
    [
        (0, "pushes it down, and every alternative gains"),
        (1, "pushes it up and every other token's logit down"),
        (2, "No weight was recorded"),
    ],
)
def test_a_sentence_says_what_the_gradient_asks_for(run: Run, position: int, words: str) -> None:
    assert words in run.rollout(1)[position].sentence


def test_a_rare_token_that_is_pushed_down_feeds_the_head(run: Run) -> None:
    from dataclasses import replace

    rare = run.rollout(1)[1]
    pushed = replace(rare, values=rare.values | {"weight": -1.0})
    assert f"less mass than {rare.values['squeeze']:.3g}: the more probable ones take it all" in pushed.sentence


def test_whatever_a_model_wrote_is_text(run: Run) -> None:
    view = run.rollout(1)
    for page in (view._repr_html_(), view[1]._repr_html_(), view[2]._repr_html_(), run.rollout(0)._repr_html_()):
        tags = Tags(page)
        assert set(tags.names) <= {"div", "p", "b", "code", "span", "small", "table", "tr", "th", "td", "wbr"}
        assert "\u202e" not in page and "\u0007" not in page  # noqa: PT018 - one claim
        assert len(page) < 20_000
    shown = Tags(view._repr_html_()).text
    assert "‹202E›‹07›⏎" in shown
    assert HOSTILE.replace(" ", "␣") in shown
    assert Tags(view._repr_html_()).names.count("b") == 1  # the heading


def test_shades_follow_the_quantity(run: Run) -> None:
    page = run.rollout(1)._repr_html_()
    assert page.count("rgba(213,94,0,0.55)") == 1  # the largest weight, negative: the deepest orange
    assert page.count("rgba(0,114,178,0.28)") == 1  # half of it, positive
    assert "Shaded by weight" in page
    assert "Shaded by entropy" in run.rollout(1, by="entropy")._repr_html_()
    squeeze = run.rollout(1).by("squeeze")._repr_html_()
    assert squeeze.count("rgba(213,94,0") == 2  # the two rare tokens have a positive c − π
    assert squeeze.count("rgba(0,114,178") == 1


def test_a_rollout_without_tokens_shows_its_text(run: Run) -> None:
    view = run.rollout(0)
    assert (len(view), view.update, view.quantity) == (0, None, "prob")
    assert "No token of it was recorded" in view._repr_html_()
    with pytest.raises(UsageError, match="position: expected a recorded position "):
        view[0]


def test_a_long_rollout_is_cut_and_says_so(run: Run) -> None:
    from dataclasses import replace

    import pandas as pd

    view = run.rollout(1)
    long = replace(view, tokens=pd.concat([view.tokens] * 1000, ignore_index=True))
    page = long._repr_html_()
    assert "and 2,600 more tokens" in page
    assert len(page) < 120_000


def test_what_is_not_there_is_refused(run: Run) -> None:
    with pytest.raises(UsageError, match="rollout: expected one of 0 to 1 in steps 0 to 0, got rollout 9 in step 0"):
        run.rollout(9, 0)
    with pytest.raises(UsageError, match="rollout: expected one of 0 to 1 in steps 0 to 0, got rollout 1 in step 4"):
        run.rollout(1, 4)
    with pytest.raises(UsageError, match=r"update: expected one that recorded .* \(0, 1\), got 5"):
        run.rollout(1, update=5)
    with pytest.raises(
        UsageError, match="quantity: expected one of weight, prob, entropy, advantage, squeeze, got 'x'"
    ):
        run.rollout(1, by="x")
    with pytest.raises(UsageError, match="recorded for these tokens, got 'advantage'; choose among weight, prob"):
        run.rollout(1, by="advantage")
    with pytest.raises(UsageError, match=r"position: expected a recorded position \(0 to 2\), got 3"):
        run.rollout(1)[3]
