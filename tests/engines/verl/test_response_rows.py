"""Where response tokens stand in verl's packed and padded rows, against a loop over sequences; and what is refused."""

from __future__ import annotations

import pytest
import torch

from analysis import UsageError
from analysis.engines.verl.observing.response_rows import ResponseRows
from analysis.engines.verl.observing.rollouts import RolloutBatch, read_rollouts

from .observed_setup import make_batch, make_rows


def test_places_are_those_of_a_loop_over_sequences() -> None:
    rows = make_rows(1, prompts=2, per_prompt=3, padding=1)
    data = make_batch(rows)
    places = ResponseRows.of(data)
    widest, start = max(len(row["input_ids"]) for row in rows), 0
    packed = torch.cat([100.0 * number + torch.arange(len(row["input_ids"])) for number, row in enumerate(rows)])
    padded = torch.stack([100.0 * number + torch.arange(widest) for number in range(len(rows))]).flatten()
    of_rows, of_responses = places.of_sequences(packed), places.of_responses(data["old_log_probs"])
    assert of_rows.shape == of_responses.shape == (len(rows), max(len(row["responses"]) for row in rows))
    for number, row in enumerate(rows):
        for position in range(of_rows.shape[1]):
            real = position < len(row["responses"])
            assert places.real[number, position] == real
            predictor = 100.0 * number + len(row["prompts"]) + position - 1
            assert of_rows[number, position] == (predictor if real else 0)
            assert of_responses[number, position] == (row["old_log_probs"][position] if real else 0)
            if real:
                assert padded[places.padded[number, position]] == predictor
        start += len(row["input_ids"])
    assert len(packed) == start


def test_padded_rows_are_refused() -> None:
    data = make_batch(make_rows(1, prompts=1))
    data["responses"] = data["responses"].to_padded_tensor(0)
    with pytest.raises(UsageError, match=r"trainer: expected jagged rows, as verl's V1 trainer makes them, got padded"):
        ResponseRows.of(data)


@pytest.mark.parametrize("column", ["input_ids", "prompts"])
def test_sequences_of_another_length_are_refused(column: str) -> None:
    rows = make_rows(1, prompts=1)
    rows[1][column] = rows[1][column][:-1]
    with pytest.raises(
        UsageError, match="trainer: expected rows of a prompt and its response, got sequences of another"
    ):
        ResponseRows.of(make_batch(rows))


def test_values_of_other_tokens_are_refused() -> None:
    data = make_batch(make_rows(1, prompts=1))
    places = ResponseRows.of(data)
    with pytest.raises(UsageError, match="trainer: expected one value for each response token, got rows of another"):
        places.of_responses(data["input_ids"])
    with pytest.raises(UsageError, match="trainer: expected jagged rows of responses, got a tensor"):
        places.of_responses(torch.zeros(4, 8))


def test_rollouts_are_numbered_by_index_uid_and_session_whatever_the_ranks() -> None:
    rows = make_rows(1, prompts=3, per_prompt=2, padding=2)

    def rollouts(chosen: list[dict]) -> list:
        data = make_batch(chosen)
        places = ResponseRows.of(data)
        return read_rollouts(data, places, places.of_responses(data["response_mask"]).bool())

    alone = RolloutBatch(step=0)
    assert alone.add(rollouts(rows[::-1])).tolist() == [-1, -1, 0, 1, 2, 3, 4, 5]
    one = alone.number(lambda facts: [facts])
    assert one.numbers.tolist() == [5, 4, 3, 2, 1, 0]
    halves = [RolloutBatch(step=0) for _ in range(2)]
    facts: list = []
    for half, chosen in zip(halves, (rows[1::2], rows[::2]), strict=True):
        half.add(rollouts(chosen))
        half.number(lambda own: facts.append(own) or [own])
    numbered = [half.number(lambda own: facts) for half in halves]
    assert [found.numbers.tolist() for found in numbered] == [[1, 3, 5], [0, 2, 4]]
    for found in numbered:
        assert found.groups.tolist() == one.groups.tolist() == [0, 0, 1, 1, 2, 2]
        assert found.rewards.tolist() == one.rewards.tolist()
        assert found.entropy == pytest.approx(one.entropy)
