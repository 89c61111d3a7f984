"""Tokens that a tool or an environment wrote: no row, no weight, no count, but context of what follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import UsageError, trace_rollouts
from analysis.objectives import parse_objective
from analysis.offline import read_rollouts
from analysis.records import Run
from analysis.report import summarize_trace
from tests.offline.small import dense_logits, make_model, make_tokenizer

CALL, TOOL, LAST = [7, 9, 3], [20, 21], [11, 1]
ROW: dict[str, Any] = {
    "prompt": "1 + 2 :",
    "response_ids": CALL + TOOL + LAST,
    "response_mask": [1, 1, 1, 0, 0, 1, 1],
    "reward": 1.0,
}


def traced(out: Path, rows: Any, **options: Any) -> Run:
    return trace_rollouts(make_model(), make_tokenizer(), rows, out=out, **options)


@pytest.mark.parametrize(
    "name",
    [
        "response_mask",
        "loss_mask",
        "completion_mask",
        "tool_mask",
        "env_mask",
        "action_mask",
        "assistant_masks",
        "mine",
    ],
)
def test_rows_of_the_policy_alone_in_their_own_contexts(tmp_path: Path, name: str) -> None:
    row = {key: value for key, value in ROW.items() if key != "response_mask"} | {name: ROW["response_mask"]}
    run = traced(tmp_path, [row], columns={"response_mask": name} if name == "mine" else None, objectives=["psr-log"])
    tokens = run.table("tokens")
    assert tokens["token"].tolist() == CALL + LAST
    assert tokens["position"].tolist() == [0, 1, 2, 5, 6]
    assert run.table("rollouts")["length"].tolist() == [5]
    assert run.table("rollouts")["response_ids"][0].tolist() == CALL + TOOL + LAST
    tokenizer = make_tokenizer()
    logits, ids = dense_logits(make_model(), tokenizer, ROW["prompt"], tokenizer.decode(ROW["response_ids"]))
    assert ids.tolist() == CALL + TOOL + LAST
    log_probs = logits.log_softmax(-1)
    own = log_probs.gather(-1, ids[:, None])[:, 0].numpy()[[0, 1, 2, 5, 6]]
    np.testing.assert_allclose(tokens["log_prob"], own, rtol=2e-4, atol=2e-6)  # the model itself computes in float32
    entropy = -(log_probs.exp() * log_probs).sum(-1).numpy()[[0, 1, 2, 5, 6]]
    np.testing.assert_allclose(tokens["entropy"], entropy, rtol=2e-4, atol=2e-6)
    assert run.laws("psr-log")["weight"].tolist() == [1.0] * 5
    assert "2 tokens of 1 responses are not the policy's" in " ".join(summarize_trace(run).notes)


def test_length_normalised_objectives_count_the_policys_tokens(tmp_path: Path) -> None:
    """The mean of log ρ over a response, which GSPO's ratio is the exponential of, is over the policy's tokens."""
    old = [-2.0, -2, -2, -50, -50, -2, -2]  # those of the tool's tokens are nobody's
    other = {"prompt": "1 + 2 :", "response_ids": [9, 1], "response_mask": [1, 1], "old_log_probs": [-2.0, -2]}
    run = traced(tmp_path, [ROW | {"old_log_probs": old}, other | {"reward": 0.0}], objectives=["gspo"])
    tokens = run.table("tokens")
    log_ratio = tokens["log_prob"].astype(float) + 2
    ratio = np.exp(log_ratio.groupby(tokens["rollout"]).mean())
    objective = parse_objective("gspo,clip_low=1,clip_high=1e30")
    got = run.laws(objective).groupby("rollout")["weight"].first()
    np.testing.assert_allclose(got, ratio * np.array([1, -1]) / 2**0.5, rtol=2e-3)  # the std is unbiased


@pytest.mark.parametrize("length", ["response", "whole", "trailing padding"])
def test_masks_over_prompt_and_response_too(tmp_path: Path, length: str) -> None:
    prompt = make_tokenizer().encode(ROW["prompt"])
    row = dict(ROW)
    if length == "whole":
        row["response_mask"] = [0] * len(prompt) + ROW["response_mask"]
    if length == "trailing padding":
        row |= {"response_ids": ROW["response_ids"] + [0, 0], "response_mask": ROW["response_mask"] + [0, 0]}
    assert traced(tmp_path, [row]).table("tokens")["token"].tolist() == CALL + LAST


def test_a_token_counts_where_each_mask_says_so(tmp_path: Path) -> None:
    row = {**ROW, "completion_mask": [1] * 6 + [0]}
    run = traced(tmp_path, [row])
    assert run.table("tokens")["token"].tolist() == CALL + LAST[:1]
    assert run.info["trace"]["columns"]["response_mask"] == "response_mask * completion_mask"


def test_values_per_token_for_all_or_for_the_policys(tmp_path: Path) -> None:
    for out, values in (("all", [-1.0, -2, -3, 0, 0, -4, -5]), ("own", [-1.0, -2, -3, -4, -5])):
        run = traced(tmp_path / out, [ROW | {"old_log_probs": values}])
        assert run.table("tokens")["old_log_prob"].tolist() == [-1, -2, -3, -4, -5]
    with pytest.raises(UsageError, match=r"rollout 0: old_log_probs has 3 numbers for 7 response tokens"):
        traced(tmp_path / "bad", [ROW | {"old_log_probs": [-1.0, -2, -3]}])


def test_a_response_that_is_masked_throughout_counts_in_its_group(tmp_path: Path) -> None:
    rows = [
        {"prompt": "1 :", "response_ids": [9, 1], "response_mask": [1, 1], "reward": 1.0},
        {"prompt": "1 :", "response_ids": [10, 11], "response_mask": [0, 0], "reward": 0.0},
    ]
    run = traced(tmp_path, rows, objectives=["dr-grpo"], on_policy=True)
    weights = run.laws("dr-grpo")
    assert weights["rollout"].tolist() == [0, 0]
    assert weights["weight"].tolist() == pytest.approx([0.5, 0.5])
    assert "1 responses have no token of the policy" in " ".join(summarize_trace(run).notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"response_mask": [1, 0]}, r"rollout 0: the mask of the policy's tokens has 2 entries for 7 response tokens"),
        ({"response_mask": [1, 2, 0, 0, 0, 0, 0]}, r"'response_mask': expected a list of 0 and 1"),
        ({"response_mask": "1110011"}, r"'response_mask': expected a list of 0 and 1"),
        ({"loss_mask": [1, 1]}, r"the masks response_mask and loss_mask have different lengths"),
    ],
)
def test_masks_that_do_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        traced(tmp_path, [ROW | change])
    run = traced(
        tmp_path, [ROW | change, ROW if "loss_mask" not in change else ROW | {"loss_mask": [1] * 7}], skip_bad=True
    )
    assert run.rows("rollouts") == 1


def test_several_turns_as_messages_need_ids(tmp_path: Path) -> None:
    turns = [
        {"role": "assistant", "content": "1 2"},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "4"},
    ]
    with pytest.raises(
        UsageError, match=r"got 3 messages; give a prompt of messages as well, or the token ids of such a r"
    ):
        read_rollouts([{"prompt": "1 :", "response": turns, "reward": 1}])
    with pytest.raises(UsageError, match=r"has turns of tool.*no column says which of its tokens the policy sampled"):
        read_rollouts([{"prompt": "1 :", "response": turns, "response_ids": [7, 8, 9, 10], "reward": 1}])
    row = {
        "prompt": "1 :",
        "response": turns,
        "response_ids": [7, 8, 9, 10],
        "response_mask": [1, 1, 0, 1],
        "reward": 1,
    }
    run = traced(tmp_path, [row])
    assert run.table("tokens")["position"].tolist() == [0, 1, 3]
    assert run.table("rollouts")["response_text"].tolist() == ["1 2 3 4"]


@pytest.mark.parametrize("field", ["reasoning_content", "tool_calls"])
def test_text_that_keeps_a_part_in_another_field(field: str) -> None:
    message = {"role": "assistant", "content": "4", field: "2 3" if field == "reasoning_content" else [{"name": "f"}]}
    with pytest.raises(
        UsageError, match=r"the message keeps its reasoning or its calls of tools apart from its content"
    ):
        read_rollouts([{"prompt": "1 :", "response": [message], "reward": 1}])
    (rollout,) = read_rollouts([{"prompt": "1 :", "response": [message], "response_ids": [8, 9], "reward": 1}]).rollouts
    assert (rollout.response, rollout.response_ids) == (None, (8, 9))
