"""Files of verifiers, prime-rl, vLLM, OpenAI-compatible servers, slime and OpenRLHF: token ids, masks, log-probs,
rewards and advantages arrive exactly as they are given, and a row that cannot be used is named."""

from __future__ import annotations

import json
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis import UsageError
from analysis.offline import Rollout, read_rollouts, trace_rollouts
from tests.offline import peer_files as peer
from tests.offline.small import make_model, make_tokenizer, write_jsonl

EXACT = ("prompt_ids", "response_ids", "response_mask", "old_log_probs", "sampling_log_probs", "advantage", "reward")


def values(rollout: Rollout) -> tuple[Any, ...]:
    return tuple(getattr(rollout, name) for name in EXACT)


class TestEpisodes:
    def test_one_turn(self, tmp_path: Path) -> None:
        path = write_jsonl(tmp_path / "traces.jsonl", [peer.episode([peer.single_turn()])])
        file = read_rollouts(path)
        (rollout,) = file.rollouts
        log_probs = (-0.25, -0.5)
        assert values(rollout) == ((5, 6, 7, 8), (9, 1), (True, True), log_probs, log_probs, (0.5, 0.5), 1.0)
        assert (rollout.step, rollout.id, rollout.prompt, rollout.response) == (7, "t1", [peer.USER], "2")
        assert (rollout.where, rollout.file, rollout.row) == ("traces.jsonl line 1", "traces.jsonl", 1)
        assert file.layout == "episodes of verifiers and prime-rl"

    def test_turns_with_a_tool(self) -> None:
        nodes = [
            peer.node(peer.USER, [5, 6]),
            peer.node(peer.CALL, [7, 9, 1], own=2, parent=0, logprobs=[-0.25, -0.5], advantages=[1.0, 2.0]),
            peer.node(peer.TOOL, [3, 3], parent=1),
            peer.node(peer.ANSWER, [7, 2, 1], own=2, parent=2, logprobs=[-1.0, -2.0], advantages=[3.0, 4.0]),
        ]
        (rollout,) = read_rollouts([peer.episode([peer.trace(nodes)])]).rollouts
        log_probs = (-0.25, -0.5, 0.0, 0.0, 0.0, -1.0, -2.0)
        mask = (True, True, False, False, False, True, True)
        advantages = (1.0, 2.0, 0.0, 0.0, 0.0, 3.0, 4.0)
        assert values(rollout) == ((5, 6, 7), (9, 1, 3, 3, 7, 2, 1), mask, log_probs, log_probs, advantages, 1.0)
        assert rollout.response is None

    def test_branches_share_tokens_once(self) -> None:
        nodes = [
            peer.node(peer.USER, [5, 6]),
            peer.node(peer.ANSWER, [7, 9], own=1, parent=0, logprobs=[-0.25]),
            peer.node(peer.USER, [3], parent=1),
            peer.node(peer.ANSWER, [7, 10], own=1, parent=2, logprobs=[-0.5]),
            peer.node(peer.USER, [4], parent=1),
            peer.node(peer.ANSWER, [7, 11], own=1, parent=4, logprobs=[-1.0]),
        ]
        file = read_rollouts([peer.episode([peer.trace(nodes)])])
        first, second = file.rollouts
        assert (first.prompt_ids, first.response_ids) == ((5, 6, 7), (9, 3, 7, 10))
        assert (second.prompt_ids, second.response_ids) == ((5, 6, 7, 9, 4, 7), (11,))
        assert (first.response_mask, second.response_mask) == ((True, False, False, True), (True,))
        assert (first.group != second.group, second.where) == (True, "rollout 0, branch 2")
        assert "1 traces have several branches" in " ".join(file.notes)

    def test_groups_are_those_of_the_file(self) -> None:
        rows = [peer.episode([peer.single_turn(trace_id=f"t{i}")], group=f"g{i // 2}") for i in range(4)]
        groups = [rollout.group for rollout in read_rollouts(rows).rollouts]
        assert groups[0] == groups[1] != groups[2] == groups[3]

    def test_failed_and_frozen_traces_are_left_out_and_counted(self) -> None:
        frozen = peer.single_turn(agent={"config": {}, "name": "judge", "trainable": False})
        rows = [peer.episode([peer.single_turn(), frozen]), peer.episode([peer.single_turn(ok=False)])]
        file = read_rollouts(rows)
        assert len(file.rollouts) == 1
        assert "1 of 3 traces failed (ok is false)" in " ".join(file.notes)
        assert "1 traces of agents that are not trained" in " ".join(file.notes)
        assert file.rollouts[0].where == "rollout 0, trace 1"

    def test_rewards_are_weighted_and_unassigned_advantages_are_none(self) -> None:
        nodes = [peer.node(peer.USER, [5]), peer.node(peer.ANSWER, [9], own=1, parent=0, logprobs=[-1.0])]
        rewards = {"a": {"score": 1.0, "weight": 0.5}, "b": {"score": -1.0, "weight": 0.25}, "c": None}
        (rollout,) = read_rollouts([peer.episode([peer.trace(nodes, rewards=rewards)])]).rollouts
        assert (rollout.reward, rollout.advantage) == (0.25, None)

    def test_log_probs_are_read_where_every_sampled_token_has_one(self) -> None:
        nodes = [peer.node(peer.USER, [5]), peer.node(peer.ANSWER, [9], own=1, parent=0)]
        (rollout,) = read_rollouts([peer.episode([peer.trace(nodes)])]).rollouts
        assert (rollout.old_log_probs, rollout.sampling_log_probs) == (None, None)

    def test_log_probs_of_the_trainer_are_the_old_ones(self) -> None:
        row = peer.single_turn()
        row["nodes"][1]["trainer_logprobs"] = [-0.3125, -0.625]
        (rollout,) = read_rollouts([row]).rollouts
        assert (rollout.old_log_probs, rollout.sampling_log_probs) == ((-0.3125, -0.625), (-0.25, -0.5))

    @pytest.mark.parametrize("resumed", [False, True])
    def test_an_attempt_to_compact_counts_where_the_agent_went_on_from_it(self, resumed: bool) -> None:
        tool = {"name": "f", "description": "", "parameters": {}}
        attempt = [{"node": 1, "type": "compaction_attempt"}]
        nodes = [
            peer.node(peer.USER, [5], tools=[tool]),
            peer.node(peer.ANSWER, [9], own=1, parent=0, logprobs=[-1.0], semantic_parents=attempt),
            peer.node(peer.USER, [6]),
            peer.node(peer.ANSWER, [10], own=1, parent=2, logprobs=[-2.0]),
        ]
        nodes[3]["semantic_parents"] = [{"node": 1, "type": "compaction"}] if resumed else []
        rollouts = read_rollouts([peer.episode([peer.trace(nodes)])]).rollouts
        assert [rollout.response_ids for rollout in rollouts] == [(9,), (10,)][not resumed :]
        assert rollouts[0].tools == ([{"type": "function", "function": tool}] if resumed else None)

    def test_a_trace_alone(self) -> None:
        row = peer.single_turn()
        file = read_rollouts([row])
        assert file.layout == "single traces of verifiers"
        assert values(file.rollouts[0]) == values(read_rollouts([peer.episode([row])]).rollouts[0])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"logprobs": [-1.0]}, r"trace t1: expected 2 logprobs, one for each sampled token of a message, got 1"),
            ({"mask": [True]}, r"trace t1: expected a mask of 4 entries, one for each token, got 1"),
            ({"parent": 4}, r"expected the parent of a node among the nodes before it, got 4"),
        ],
    )
    def test_a_broken_line(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        broken = peer.single_turn()
        broken["nodes"][1] |= change
        path = write_jsonl(tmp_path / "a.jsonl", [peer.episode([peer.single_turn()]), peer.episode([broken])])
        with pytest.raises(UsageError, match=rf"rollouts: a.jsonl line 2: {message}"):
            read_rollouts(path)
        file = read_rollouts(path, skip_bad=True)
        assert (len(file.rollouts), file.bad.counts) == (1, {"unusable value": 1})


class TestServers:
    def test_request_output(self, tmp_path: Path) -> None:
        first, second = read_rollouts(write_jsonl(tmp_path / "a.jsonl", [peer.request_output()])).rollouts
        log_probs = (-0.25, -0.5)
        assert values(first) == ((5, 6), (9, 1), None, log_probs, log_probs, None, None)
        assert values(second) == ((5, 6), (10,), None, (-1.5,), (-1.5,), None, None)
        assert (first.group == second.group, first.id, second.number, second.response) == (True, "q1", 2, "3")

    def test_one_output_for_each_of_several_requests_is_grouped_by_its_prompt(self) -> None:
        rows = [peer.request_output(outputs=[output]) for output in peer.request_output()["outputs"]]
        first, second = read_rollouts(rows).rollouts
        assert (first.response_ids, second.response_ids, first.group) == ((9, 1), (10,), None)

    def test_rewards_may_stand_beside(self) -> None:
        file = read_rollouts([peer.request_output(reward=[1.0, 0.0])])
        assert [rollout.reward for rollout in file.rollouts] == [1.0, 0.0]

    def test_a_sampled_token_without_its_log_prob(self, tmp_path: Path) -> None:
        row = peer.request_output()
        del row["outputs"][0]["logprobs"][1]["1"]
        path = write_jsonl(tmp_path / "a.jsonl", [peer.request_output(), row])
        with pytest.raises(UsageError, match=r"a\.jsonl line 2: the logprobs have no entry for the sampled token 1"):
            read_rollouts(path)

    def test_chat_completion_with_token_ids(self) -> None:
        (rollout,) = read_rollouts([peer.chat_completion()]).rollouts
        log_probs = (-0.25, -0.5)
        assert values(rollout) == ((5, 6), (9, 1), None, log_probs, log_probs, None, None)
        assert (rollout.response, rollout.prompt) == ("2", None)

    def test_tokens_as_token_ids_beside_the_request(self) -> None:
        row = {"messages": [peer.USER], "response": peer.chat_completion(ids="tokens"), "reward": 1.0}
        (rollout,) = read_rollouts([row]).rollouts
        log_probs = (-0.25, -0.5)
        assert values(rollout) == (None, (9, 1), None, log_probs, log_probs, None, 1.0)
        assert rollout.prompt == [peer.USER]

    def test_without_ids_the_text_is_read_and_no_log_probs(self) -> None:
        row = peer.chat_completion(ids="none") | {"messages": [peer.USER]}
        (rollout,) = read_rollouts([row]).rollouts
        assert values(rollout) == (None,) * 7
        assert (rollout.response, rollout.prompt) == ("2", [peer.USER])

    def test_completions_of_a_text_prompt(self) -> None:
        choice = {"index": 0, "text": "2", "token_ids": [9, 1], "finish_reason": "stop"}
        choice["logprobs"] = {"tokens": ["2", "</s>"], "token_logprobs": [-0.25, -0.5], "text_offset": [0, 1]}
        row = {"object": "text_completion", "prompt": "1 + 1", "choices": [choice, choice | {"token_ids": [3, 1]}]}
        first, second = read_rollouts([row]).rollouts
        assert (first.prompt, first.response_ids, second.response_ids) == ("1 + 1", (9, 1), (3, 1))
        assert first.old_log_probs == (-0.25, -0.5)

    def test_a_batch_with_its_requests_in_one_folder(self, tmp_path: Path) -> None:
        tools = [{"type": "function", "function": {"name": "f"}}]
        write_jsonl(tmp_path / "input.jsonl", [peer.batch_request("b", tools=tools), peer.batch_request("a")])
        write_jsonl(tmp_path / "output.jsonl", [peer.batch_response("a"), peer.batch_response("b")])
        first, second = read_rollouts(tmp_path).rollouts
        assert (first.prompt, first.id, first.tools, first.where) == ([peer.USER], "a", None, "output.jsonl line 1")
        assert (second.id, second.tools) == ("b", tools)

    def test_a_batch_without_its_requests(self, tmp_path: Path) -> None:
        path = write_jsonl(tmp_path / "output.jsonl", [peer.batch_response()])
        with pytest.raises(
            UsageError, match=r"output\.jsonl line 1: the response has no prompt; give a folder with the"
        ):
            read_rollouts(path)

    def test_a_request_that_failed(self, tmp_path: Path) -> None:
        failed = peer.batch_response("b", response=None, error={"message": "too long"})
        rows = [peer.batch_request("a"), peer.batch_request("b"), peer.batch_response("a"), failed]
        path = write_jsonl(tmp_path / "a.jsonl", rows)
        with pytest.raises(UsageError, match=r"a\.jsonl line 4: the request failed: .*too long"):
            read_rollouts(path)
        assert len(read_rollouts(path, skip_bad=True).rollouts) == 1


class TestTorchFiles:
    def test_samples_of_slime(self, tmp_path: Path) -> None:
        torch.save(peer.slime_dump(), path := tmp_path / "4.pt")
        first, second = read_rollouts(path).rollouts
        log_probs = (-0.25, 0.0, -0.5)
        assert values(first) == ((5, 6), (9, 3, 1), (True, False, True), log_probs, log_probs, None, 1.0)
        assert (first.step, first.group, second.id, second.reward, second.row) == (4, 2, 1, 0.0, 2)

    def test_training_data_of_slime(self, tmp_path: Path) -> None:
        torch.save(peer.slime_training_dump(), path := tmp_path / "4.pt")
        (rollout,) = read_rollouts(path).rollouts
        exact = ((5, 6), (9, 1), (True, True), (-0.375, -0.625), (-0.25, -0.5), (-0.5, -0.5), 0.0)
        assert values(rollout) == exact
        assert (rollout.step, rollout.id) == (4, 9)

    def test_experience_of_openrlhf(self, tmp_path: Path) -> None:
        torch.save(peer.experience(), path := tmp_path / "experience.pt")
        first, second = read_rollouts(path).rollouts
        mask, old, sampling = (True, False, True), (-0.375, 0.0, -0.625), (-0.25, 0.0, -0.5)
        assert values(first) == ((5, 6), (9, 3, 1), mask, old, sampling, (0.5, 0.0, 0.5), 1.0)
        assert values(second) == ((5,), (10, 1), (True, True), (-1.0, -2.0), (-1.5, -2.5), (-0.5, -0.5), 0.0)
        assert (second.prompt, second.where) == ("1", "experience.pt row 1, sequence 2")

    def test_single_experiences_and_left_padding(self) -> None:
        single = {
            **{"sequences": [0, 0, 5, 9, 1], "attention_mask": [0, 0, 1, 1, 1], "action_mask": [1, 1]},
            **{"rollout_log_probs": [-0.25, -0.5], "rewards": [1.0], "prompts": ["1"]},
        }
        (rollout,) = read_rollouts([single]).rollouts
        log_probs = (-0.25, -0.5)
        assert values(rollout) == ((5,), (9, 1), (True, True), log_probs, log_probs, None, 1.0)

    def test_rows_and_columns_of_ones_own(self, tmp_path: Path) -> None:
        rows = [{"prompt_ids": torch.tensor([5]), "response_ids": torch.tensor([6, 7]), "reward": torch.tensor(1.0)}]
        torch.save(rows, tmp_path / "rows.pt")
        torch.save(
            {"prompt": ["1", "2"], "response": ["3", "4"], "reward": torch.tensor([1, 0])}, tmp_path / "columns.pt"
        )
        assert read_rollouts(tmp_path / "rows.pt").rollouts[0].response_ids == (6, 7)
        assert [rollout.reward for rollout in read_rollouts(tmp_path / "columns.pt").rollouts] == [1.0, 0.0]

    def test_objects_are_not_loaded(self, tmp_path: Path) -> None:
        torch.save({"samples": [{"prompt": Fraction(1, 2)}]}, path := tmp_path / "a.pt")
        with pytest.raises(
            UsageError, match=r"a\.pt cannot be read: .* got an object of fractions\.Fraction, which is not"
        ):
            read_rollouts(path)
        torch.save([1, 2], path)
        with pytest.raises(
            UsageError, match=r"expected a list of dicts, or a dict, got list; save the rows as a list of"
        ):
            read_rollouts(path)

    def test_a_broken_sample_is_named(self, tmp_path: Path) -> None:
        dump = peer.slime_dump()
        dump["samples"][1]["response_length"] = 9
        torch.save(dump, path := tmp_path / "4.pt")
        with pytest.raises(
            UsageError, match=r"4\.pt row 2: expected a response_length below the number of tokens, got 9"
        ):
            read_rollouts(path)

    def test_a_cut_file(self, tmp_path: Path) -> None:
        torch.save(OrderedDict(samples=[{"prompt": "1"}]), path := tmp_path / "a.pt")
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(UsageError, match=r"a\.pt cannot be read: expected rows of a table, got a zip archive"):
            read_rollouts(path)


def test_a_plain_json_of_an_experience(tmp_path: Path) -> None:
    plain = {name: value.tolist() if torch.is_tensor(value) else value for name, value in peer.experience().items()}
    plain["info"] = {}
    (tmp_path / "a.json").write_text(json.dumps(plain))
    torch.save(peer.experience(), tmp_path / "a.pt")
    read = [read_rollouts(tmp_path / name).rollouts for name in ("a.json", "a.pt")]
    assert [values(rollout) for rollout in read[0]] == [values(rollout) for rollout in read[1]]


def test_log_probs_of_the_sampler_are_recorded(tmp_path: Path) -> None:
    nodes = [
        peer.node(peer.USER, [5, 6]),
        peer.node(peer.CALL, [7, 9, 1], own=2, parent=0, logprobs=[-0.25, -0.5]),
        peer.node(peer.TOOL, [3, 3], parent=1),
        peer.node(peer.ANSWER, [7, 2, 1], own=2, parent=2, logprobs=[-1.0, -2.0]),
    ]
    single = peer.single_turn(reward=0.0)
    single["nodes"][1]["message"] = {"role": "assistant", "content": "3"}  # what its ids read
    rows = [peer.episode([peer.trace(nodes)]), *[peer.episode([single])] * 60]
    run = trace_rollouts(make_model(), make_tokenizer(), rows, out=tmp_path / "run")
    tokens = run.table("tokens")
    assert tokens["token"].tolist()[:6] == [9, 1, 2, 1, 9, 1]
    assert tokens["position"].tolist()[:6] == [0, 1, 5, 6, 0, 1]
    expected = [-0.25, -0.5, -1.0, -2.0, -0.25, -0.5]
    assert tokens["sampling_log_prob"].tolist()[:6] == tokens["old_log_prob"].tolist()[:6] == expected
    mismatch = next(finding for finding in run.diagnose().findings if finding.name == "sampler-mismatch")
    assert mismatch.value is not None
    assert abs(mismatch.value - float((tokens["sampling_log_prob"] - tokens["log_prob"]).mean())) < 1e-6
