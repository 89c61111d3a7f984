"""The layouts of public trainers and evaluators: one row of each as it is written, and what is read of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from analysis import UsageError
from analysis.offline import read_rollouts
from analysis.offline.layouts import LAYOUTS
from tests.offline import peer_files as peer

CHAT = [{"role": "user", "content": "1+1"}]
TURN = [{"role": "assistant", "content": "2"}]


@dataclass
class Case:
    """Rows as the peer writes them, and fields of the rollouts that are read."""

    rows: list[dict[str, Any]]
    expected: list[dict[str, Any]]
    columns: dict[str, Any] = field(default_factory=dict)
    answers: bool = False
    format: str | None = None


CASES = {
    "completions table of TRL": Case(
        [{"step": 3, "prompt": CHAT, "completion": TURN, "accuracy_reward": 1.0, "advantage": 0.5}],
        [{"step": 3, "prompt": CHAT, "response": "2", "reward": 1.0, "advantage": 0.5}],
    ),
    "rollout dump of AReaL": Case(
        [
            {
                **{"task_id": "7", "sample_idx": 0, "seqlen": 4, "prompt_len": 3, "head_version": 2, "tail_version": 3},
                **{"reward": 1.0, "prompt": "1+1=", "completion": "2<eos>"},
            }
        ],
        [{"prompt": "1+1=", "response": "2<eos>", "group": "7", "step": 3, "reward": 1.0}],
    ),
    "results of verifiers": Case(
        [
            {
                "example_id": 4,
                "prompt": json.dumps(CHAT),
                "completion": json.dumps(TURN),
                "reward": 0.5,
                "metrics": {"f": 1},
            }
        ],
        [{"prompt": CHAT, "response": "2", "group": 4, "reward": 0.5}],
    ),
    "episodes of verifiers and prime-rl": Case(
        [peer.episode([peer.single_turn()])],
        [{"prompt_ids": (5, 6, 7, 8), "response_ids": (9, 1), "step": 7, "reward": 1.0, "advantage": (0.5, 0.5)}],
    ),
    "single traces of verifiers": Case([peer.single_turn()], [{"prompt": [peer.USER], "response": "2", "id": "t1"}]),
    "training data of slime": Case(
        [peer.slime_training_dump()["samples"][0]],
        [{"response_ids": (9, 1), "old_log_probs": (-0.375, -0.625), "reward": -0.5, "advantage": (-0.5, -0.5)}],
    ),
    "experience of OpenRLHF": Case(
        [peer.experience()],
        [
            {"prompt_ids": (5, 6), "response_ids": (9, 3, 1), "reward": 1.0, "index": 0},
            {"prompt_ids": (5,), "response_ids": (10, 1), "reward": 0.0, "index": 1},
        ],
    ),
    "outputs of vLLM": Case(
        [peer.request_output()],
        [{"prompt_ids": (5, 6), "response_ids": (9, 1)}, {"prompt_ids": (5, 6), "response_ids": (10,)}],
    ),
    "batch output of OpenAI": Case(
        [peer.batch_request(), peer.batch_response()], [{"prompt": [peer.USER], "response": "2", "id": "a"}]
    ),
    "responses of OpenAI-compatible servers": Case(
        [peer.chat_completion()], [{"prompt_ids": (5, 6), "response_ids": (9, 1), "id": "chatcmpl-1"}]
    ),
    "requests with responses of OpenAI-compatible servers": Case(
        [{"prompt": "1+1=", "response": peer.chat_completion(ids="none")}], [{"prompt": "1+1=", "response": "2"}]
    ),
    "token export of prime-rl": Case(
        [
            {
                **{"schema_version": 1, "step": 2, "rank": 0, "token_ids": [5, 6, 7, 8, 9]},
                **{"loss_mask": [False, True, False, True, False], "advantages": [0.0, 0.5, 0.0, 0.5, 0.0]},
                **{"inference_logprobs": [0.0, -1.0, 0.0, -2.0, 0.0]},
            }
        ],
        [
            {
                **{"prompt_ids": (5,), "response_ids": (6, 7, 8), "response_mask": (True, False, True), "step": 2},
                **{"advantage": (0.5, 0.0, 0.5), "old_log_probs": (-1.0, 0.0, -2.0), "reward": None},
                "sampling_log_probs": (-1.0, 0.0, -2.0),
            }
        ],
    ),
    "training data of NeMo-RL": Case(
        [
            {
                **{"content": ["1+1=2"], "rewards": [1.0], "input_lengths": [3], "token_ids": [[5, 6, 7, 0]]},
                **{"token_loss_mask": [[0, 1, 1, 0]], "sample_loss_mask": [1.0], "advantages": [[0.5] * 4]},
                **{
                    "generation_logprobs": [[0.0, -1.0, -2.0, 0.0]],
                    "prev_logprobs": [[0.0, -1.5, -2.5, 0.0]],
                    "idx": 0,
                },
            }
        ],
        [
            {
                **{"prompt_ids": (5,), "response_ids": (6, 7), "response_mask": (True, True), "reward": 1.0},
                **{"advantage": (0.5, 0.5), "old_log_probs": (-1.5, -2.5), "sampling_log_probs": (-1.0, -2.0)},
            }
        ],
    ),
    "validation data of NeMo-RL": Case(
        [{"content": [[*CHAT, *TURN]], "rewards": [1.0], "idx": 0}], [{"prompt": CHAT, "response": "2", "reward": 1.0}]
    ),
    "rollouts of open-instruct": Case(
        [
            {
                **{"step": 1, "sample_idx": 5, "prompt_idx": 1, "prompt_tokens": [5], "response_tokens": [6, 7]},
                **{"reward": 10.0, "advantage": 0.5, "finish_reason": "stop", "dataset": "gsm8k", "ground_truth": [9]},
                **{"request_info": {"tool_calleds": False}, "logprobs": [-1.0, -2.0]},
            }
        ],
        [{"prompt_ids": (5,), "response_ids": (6, 7), "group": 1, "old_log_probs": (-1.0, -2.0), "reward": 10.0}],
    ),
    "samples of slime or miles": Case(
        [
            {
                **{"group_index": 2, "index": 9, "prompt": "1+1=", "tokens": [5, 6, 7], "response": "2", "label": "2"},
                **{"response_length": 2, "reward": 1, "loss_mask": [1, 0], "rollout_log_probs": [-1.0, 0.0]},
                **{"status": "completed", "remove_sample": removed},
            }
            for removed in (False, True)
        ],
        [
            {
                **{"prompt_ids": (5,), "response_ids": (6, 7), "response_mask": mask, "group": 2, "reward": 1.0},
                **{"old_log_probs": (-1.0, 0.0), "response": "2"},
            }
            for mask in ((True, False), (False, False))
        ],
    ),
    "sequences with labels": Case(
        [{"input_ids": [5, 6, 7, 0], "attention_mask": [1, 1, 1, 0], "labels": [-100, 6, 7, -100]}],
        [{"prompt_ids": (5,), "response_ids": (6, 7), "response_mask": (True, True), "reward": None}],
    ),
    "sequences with a mask": Case(
        [
            {
                **{"input_ids": [5, 6, 7, 8], "loss_mask": [0, 1, 0, 1], "logprobs": [0.0, -1.0, 0.0, -2.0]},
                **{"rewards": 1.0, "attention_mask": [1, 1, 1, 1], "versions": [-1, 0, -1, 0]},
            }
        ],
        [
            {
                **{"prompt_ids": (5,), "response_ids": (6, 7, 8), "response_mask": (True, False, True), "reward": 1.0},
                "old_log_probs": (-1.0, 0.0, -2.0),
            }
        ],
    ),
    "evaluation dump of SkyRL": Case(
        [
            {
                **{"input_prompt": "1+1=", "output_response": "2", "score": score, "stop_reason": "stop"},
                **{"env_class": "gsm8k", "env_extras": {}, "data_source": "gsm8k"},
            }
            for score in (1.0, [0.0, 0.5, 0.5])
        ],
        [{"prompt": "1+1=", "response": "2", "reward": 1.0}] * 2,
    ),
    "rollout dump of ROLL": Case(
        [
            {
                **{"global_step": 4, "id": "q1", "prompt": "1+1=", "responses": text, "scores": score},
                **{"ground_truth": "2", "domain": "math", "sampling_params": "{}"},
            }
            for text, score in (("2", 1.0), ("3", 0.0))
        ],
        [
            {"prompt": "1+1=", "response": "2", "reward": 1.0, "step": 4, "group": "q1"},
            {"prompt": "1+1=", "response": "3", "reward": 0.0, "step": 4, "group": "q1"},
        ],
    ),
    "samples of lm-evaluation-harness": Case(
        [
            {
                **{"doc_id": 3, "doc": {"q": "1+1"}, "target": "2", "filter": "none", "metrics": ["exact_match"]},
                **{"arguments": {"gen_args_0": {"arg_0": "1+1=", "arg_1": {"until": []}}}, "resps": [["2"]]},
                **{"filtered_resps": ["2"], "exact_match": 1.0},
            }
        ],
        [{"prompt": "1+1=", "response": "2", "reward": 1.0, "group": 3}],
    ),
    "details of lighteval": Case(
        [
            {
                "doc": {"query": "1+1", "choices": ["2"], "gold_index": 0, "id": "0"},
                "model_response": {
                    **{"input": "1+1=", "text": ["2", "3"], "input_tokens": [5], "output_tokens": [[6], [7, 8]]},
                    "logprobs": [],
                },
                "metric": {"pass@k": 0.5},
            }
        ],
        [
            {"prompt": "1+1=", "response": "2", "prompt_ids": (5,), "response_ids": (6,), "group": "0", "answer": "2"},
            {
                "prompt": "1+1=",
                "response": "3",
                "prompt_ids": (5,),
                "response_ids": (7, 8),
                "group": "0",
                "answer": "2",
            },
        ],
        answers=True,
    ),
    "details of an older lighteval": Case(
        [{"full_prompt": "1+1=", "predictions": ["2"], "gold": ["2"], "metrics": {}}],
        [{"prompt": "1+1=", "response": "2", "answer": '["2"]'}],
        answers=True,
    ),
    "results of Qwen2.5-Math's evaluation": Case(
        [{"idx": 0, "question": "1+1", "gt": "2", "code": ["2", "3"], "pred": ["2", "3"], "score": [True, False]}],
        [{"prompt": "1+1", "response": "2", "reward": 1.0}, {"prompt": "1+1", "response": "3", "reward": 0.0}],
    ),
    "generations of Open-R1": Case(
        [{"problem": "1+1", "answer": "2", "generations": ["2", "3"], "correctness_math_verify": [True, False]}],
        [{"prompt": "1+1", "response": "2", "reward": 1.0}, {"prompt": "1+1", "response": "3", "reward": 0.0}],
    ),
    "generation output of verl": Case(
        [{"data_source": "gsm8k", "prompt": CHAT, "reward_model": {"ground_truth": "2"}, "responses": ["2", "3"]}],
        [
            {"prompt": CHAT, "response": text, "answer": "2", "where": f"rollout 0, response {i}"}
            for i, text in ((1, "2"), (2, "3"))
        ],
        answers=True,
    ),
    "rollout dump of verl": Case(
        [{"input": "1+1=", "output": "2", "gts": "2", "score": 1.0, "step": 5, "uid": "a_0_0"}],
        [{"prompt": "1+1=", "response": "2", "reward": 1.0, "step": 5}],
    ),
    "pairs of preferences": Case(
        [
            {"prompt": CHAT, "chosen": TURN, "rejected": [{"role": "assistant", "content": "3"}]},
            {"chosen": [*CHAT, *TURN], "rejected": [*CHAT, {"role": "assistant", "content": "3"}]},
        ],
        [
            {"prompt": CHAT, "response": "2", "reward": 1.0},
            {"prompt": CHAT, "response": "3", "reward": 0.0},
        ]
        * 2,
    ),
    "unpaired preferences": Case(
        [{"prompt": "1+1=", "completion": "2", "label": True}], [{"prompt": "1+1=", "response": "2", "reward": 1.0}]
    ),
    "conversations of ShareGPT": Case(
        [{"conversations": [{"from": "human", "value": "1+1"}, {"from": "gpt", "value": "2"}]}],
        [{"prompt": CHAT, "response": "2", "reward": None}],
    ),
    "dialogues": Case(
        [{"messages": [*CHAT, *TURN, *CHAT, *TURN]}],
        [{"prompt": CHAT, "response": None, "turns": (*TURN, *CHAT, *TURN)}],
        format="dialogue",
    ),
    "chat messages": Case([{"messages": [*CHAT, *TURN]}], [{"prompt": CHAT, "response": "2", "reward": None}]),
}


@pytest.mark.parametrize("name", CASES)
def test_read_as_it_is_written(name: str) -> None:
    case = CASES[name]
    file = read_rollouts(case.rows, columns=case.columns, with_answers=case.answers, format=case.format)
    assert file.layout == name
    assert f"The file is read as the {name}" in file.notes[0]
    got = [
        {key: getattr(rollout, key) for key in wanted}
        for rollout, wanted in zip(file.rollouts, case.expected, strict=True)
    ]
    assert got == case.expected
    assert [rollout.index for rollout in file.rollouts] == list(range(len(case.expected)))


def test_every_layout_that_is_read_has_a_case() -> None:
    assert set(CASES) == {layout.name for layout in LAYOUTS if not layout.refusal}
    assert all(layout.source for layout in LAYOUTS)


def test_the_manual_lists_every_layout() -> None:
    text = (Path(__file__).parents[2] / "docs" / "how_to" / "trace_rollouts.md").read_text()
    for layout in LAYOUTS:
        marks = ", ".join(f"`{mark}`" for mark in layout.marks)
        key = "" if layout.refusal else f"`{layout.key}` | "
        assert f"| {layout.name} | {key}{marks} | {layout.refusal or layout.source} |" in text
    assert len({layout.key for layout in LAYOUTS}) == len(LAYOUTS)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"run_id": "a", "sample_id": 0, "prompt": "", "completion": "[]", "trajectory": "[]"}, r"its prompt is empty"),
        (
            {"content": ["1+1=2"], "rewards": [1.0], "input_lengths": [5]},
            r"prompt and response in one text; log token_ids",
        ),
        ({"score": 0.5, "metrics": {}, "htmls": [], "convos": [[]]}, r"its one score is that of the whole evaluation"),
        (
            {"input": "a", "target": "b", "output": {"choices": []}, "scores": {}},
            r"a row for each of its samples: prompt",
        ),
        ({"custom_id": "a", "url": "/v1", "body": {"messages": CHAT}}, r"it has requests and no responses"),
        ({"instruction": "add", "input": "1, 1", "output": "2"}, r"made of instruction and input by a template"),
    ],
)
def test_refused_in_its_own_words(row: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=rf"columns: this is the layout \".*\": .*{message}"):
        read_rollouts([row])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt_tokens": [5], "response_tokens": [6], "prompt_idx": 0, "request_info": {"tool_calleds": True}},
            r"rollout 0: the response has called a tool \(request_info.tool_calleds\), and the layout does not",
        ),
        (
            {"doc_id": 0, "arguments": [["a", "b"]], "resps": [[[-1.0, True]]]},
            r"got log-likelihoods, which are not roll",
        ),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "c"},
            r"where the response begins is not said; write the",
        ),
        ({"messages": CHAT}, r"expected chat messages in 'messages', of which the last is the assistant's"),
        ({"messages": [*TURN, {"role": "tool", "content": "3"}]}, r"a prompt and a message of the assistant after it"),
        ({"messages": [*TURN, *CHAT]}, r"expected the assistant's message at the end of 'messages', got 'user'"),
        ({"conversations": [{"role": "user"}]}, r"expected turns of human, gpt and system in 'conversations'"),
        (
            {"tokens": [1, 2], "response_length": 2},
            r"expected a response_length below the number of tokens, got 2 of 2",
        ),
        (
            {"schema_version": 1, "token_ids": [1], "loss_mask": [0], "inference_logprobs": [0]},
            r"has no row that can be used: 1 of 1 rows are left out: their loss_mask is 0 throughout",
        ),
        ({"doc": {}, "model_response": None, "metric": {}}, r"rollout 0: it is not a row of the details of lighteval"),
        (
            {
                "example_id": 0,
                "prompt": "1+1",
                "completion": [*TURN, {"role": "user", "content": "x"}, *TURN],
                "reward": 1,
            },
            r"got 3 messages; give a prompt of messages as well, or the token ids of such a response",
        ),
    ],
)
def test_rows_of_a_layout_that_cannot_be_used(row: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_rollouts([row])


class TestPackedRows:
    """Rows of training data that hold several sequences: read as one, the second prompt would be a response."""

    ROW: ClassVar[dict[str, Any]] = {
        "input_ids": [5, 6, 7, 8, 9, 3, 0, 0],
        "labels": [-100, 6, 7, -100, 9, 3, -100, -100],
    }

    @pytest.mark.parametrize(
        "told",
        [
            {"position_ids": [0, 1, 2, 0, 1, 2, 0, 1]},
            {"seq_lengths": [3, 3, 2]},
            {"seq_lengths": [3, 3]},
            {"cu_seqlens": [0, 3, 6, 8]},
            {"seq_idx": [0, 0, 0, 1, 1, 1, -1, -1]},
            {"attention_mask": [1, 1, 1, 2, 2, 2, 0, 0]},
            {"attention_mask": [1] * 6 + [0] * 2, "position_ids": [0, 1, 2, 0, 1, 2, 0, 0]},
        ],
    )
    def test_are_cut_where_a_sequence_begins(self, told: dict[str, Any]) -> None:
        file = read_rollouts([self.ROW | told], columns={"reward": "1"})
        assert [(r.prompt_ids, r.response_ids) for r in file.rollouts] == [((5,), (6, 7)), ((8,), (9, 3))]
        assert file.rollouts[1].where == "rollout 0, sequence 2"

    def test_with_a_reward_for_each(self) -> None:
        row = self.ROW | {"seq_lengths": [3, 3, 2]}
        assert [r.reward for r in read_rollouts([row | {"rewards": [1.0, 0.5, 0.0]}]).rollouts] == [1.0, 0.5]
        with pytest.raises(UsageError, match=r"expected a reward for each of its 3 packed sequences, got 1\.0"):
            read_rollouts([row | {"rewards": 1.0}])

    @pytest.mark.parametrize("told", [{"seq_lengths": [3, 6]}, {"cu_seqlens": [1, 3]}, {"cu_seqlens": [0, 3, 3]}])
    def test_lengths_that_do_not_fit(self, told: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match="that add up to at most 8 tokens, got"):
            read_rollouts([self.ROW | told])

    def test_one_sequence_stays_one(self) -> None:
        row = {"input_ids": [0, 0, 5, 6], "labels": [-100, -100, -100, 6], "attention_mask": [0, 0, 1, 1]}
        for positions in ([0, 1, 2, 3], [1, 1, 0, 1], [0, 0, 0, 1]):
            (rollout,) = read_rollouts([row | {"position_ids": positions}], columns={"reward": "1"}).rollouts
            assert rollout.response_ids == (6,)

    def test_of_openrlhf_are_refused(self) -> None:
        row = {"sequences": [5, 6, 7, 8], "action_mask": [1, 0, 1], "attention_mask": [1, 1, 2, 2]}
        with pytest.raises(UsageError, match="expected one sequence in each row, got 2 that are packed into one"):
            read_rollouts([row])


def test_samples_of_several_filters_stand_there_several_times() -> None:
    row = CASES["samples of lm-evaluation-harness"].rows[0]
    with pytest.raises(UsageError, match=r"come once for each filter \(flexible-extract, strict-match\)"):
        read_rollouts([row | {"filter": "strict-match"}, row | {"filter": "flexible-extract"}])


def test_the_users_columns_go_before_the_layout() -> None:
    row = {"prompt": "1+1=", "chosen": "2", "rejected": "3"}
    file = read_rollouts([row], columns={"response": "chosen"})
    assert (file.layout, file.rollouts[0].response, file.rollouts[0].reward) == (None, "2", None)
    row = {"instruction": "add", "input": "1+1=", "output": "2"}
    file = read_rollouts([row], columns={"prompt": "input", "response": "output", "reward": "1"})
    assert (file.rollouts[0].prompt, file.rollouts[0].reward) == ("1+1=", 1.0)


def test_several_responses_in_a_row() -> None:
    row = {"prompt": "1+1=", "response": ["2", "3"], "reward": [1.0, 0.0], "old_log_probs": [[-1.0], [-2.0]]}
    first, second = read_rollouts([row]).rollouts
    assert (first.response, first.reward, first.old_log_probs) == ("2", 1.0, (-1.0,))
    assert (second.where, second.index, second.group) == ("rollout 0, response 2", 1, first.group)
    with pytest.raises(UsageError, match=r"rollout 0, 'reward': expected 2 entries, one for each response, got 1.0"):
        read_rollouts([row | {"reward": 1.0}])
    with pytest.raises(
        UsageError, match=r"rollout 0, 'reward': expected 2 entries, one for each response, got 3 entries"
    ):
        read_rollouts([row | {"reward": [1, 0, 1]}])
    ids = {"prompt_ids": [5], "response_ids": [[6], [7, 8]], "reward": [1, 0]}
    assert [rollout.response_ids for rollout in read_rollouts([ids]).rollouts] == [(6,), (7, 8)]
