"""Lining up positions and tokens: against a loop over single positions, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import UsageError
from analysis.probes.token_alignment import line_up


def slowly(ids, attention, labels, sampled, kept):
    """Per row: (position, token) of what counts, prompt, response; one position at a time."""
    implied = len(ids[0]) - kept if labels is None and sampled is None else 0
    out = []
    for row in range(len(ids)):
        found, prompt = [], []
        for t in range(1, len(ids[row])):
            if not attention[row][t]:
                continue
            if labels is None and not attention[row][t - 1]:
                continue
            if t - 1 < implied:  # no logits predict it
                continue
            token = ids[row][t] if labels is None else labels[row][t]
            if token < 0 or (sampled is not None and not sampled[row][t]):
                continue
            found.append((t - 1, token))
        first = found[0][0] + 1 if found else len(ids[row])
        first = implied + 1 if implied else first
        prompt = [ids[row][t] for t in range(first) if attention[row][t]]
        out.append((found, prompt if found or implied else None, [token for _, token in found]))
    return out


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_against_one_position_at_a_time(data):
    rows, length = data.draw(st.integers(1, 3)), data.draw(st.integers(2, 7))

    def table(values):
        row = st.lists(values, min_size=length, max_size=length)
        return data.draw(st.lists(row, min_size=rows, max_size=rows))

    ids = table(st.integers(0, 9))
    side = data.draw(st.sampled_from(["left", "right"]))
    pads = data.draw(st.lists(st.integers(0, length - 1), min_size=rows, max_size=rows))
    attention = [[int(t >= pad) if side == "left" else int(t < length - pad) for t in range(length)] for pad in pads]
    labels = table(st.integers(-1, 9)) if data.draw(st.booleans()) else None
    sampled = table(st.booleans()) if data.draw(st.booleans()) else None
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(attention)}
    kept = data.draw(st.integers(1, length))
    if labels is not None:
        inputs["labels"] = torch.tensor(labels)
    found = line_up(inputs, kept, 10, completion_mask=None if sampled is None else torch.tensor(sampled))
    for row, (expected, prompt, response) in enumerate(slowly(ids, attention, labels, sampled, kept)):
        at = found.counts[row].nonzero().squeeze(1)
        inside = [(t, token) for t, token in expected if t >= length - kept]
        assert list(zip((at + length - kept).tolist(), found.tokens[row, at].tolist(), strict=True)) == inside
        assert found.position[row, at].tolist() == list(range(len(expected) - len(inside), len(expected)))
        assert found.prompts[row] == prompt or (prompt is None and (row in found.unknown or found.prompts[row]))
        assert found.responses[row] == response


def test_logits_that_are_kept_say_what_the_response_is():
    """As TRL calls a model without labels: the logits of the last C + 1 positions."""
    ids = torch.tensor([[0, 5, 6, 7, 8], [3, 5, 6, 7, 8]])
    found = line_up({"input_ids": ids, "attention_mask": (ids > 0).long(), "logits_to_keep": 3}, 3, 10)
    assert found.prompts == [[5, 6], [3, 5, 6]]
    assert found.responses == [[7, 8], [7, 8]]


@pytest.mark.parametrize("name", ["labels", "shift_labels"])
def test_labels_that_are_shifted_already(name):
    ids = torch.randperm(40, generator=torch.Generator().manual_seed(0))[None] + 3
    nothing = torch.tensor([[-100]])
    late = torch.cat([ids[:, 1:], nothing] if name == "labels" else [ids[:, 2:], nothing, nothing], 1)
    message = f"^{name}: expected the tokens of input_ids at their own positions, got those of one position later"
    with pytest.raises(UsageError, match=message):
        line_up({"input_ids": ids, name: late}, 40, 50)
    line_up({"input_ids": torch.full_like(ids, 3), "labels": torch.full_like(ids, 3)}, 40, 50)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(1, 1, 3, 3), r"shape \(1, 3\) as input_ids, got shape \(1, 1, 3, 3\); for packed sequences call"),
        (torch.ones(1, 2), r"attention_mask: expected 0 at padding .*got shape \(1, 2\)"),
        (torch.ones(2, 3), r"attention_mask: expected 0 at padding .*got shape \(2, 3\)"),
        ({"full_attention": None}, r"attention_mask: expected 0 at padding .*got dict"),
        (
            torch.tensor([[0.0, 0.0, -10000.0]]),
            r"got -10000.0 at row 0, position 2; .*not with one to add to the scores",
        ),
        (torch.tensor([[1, 1, -1]]), r"got -1 at row 0, position 2"),
    ],
)
def test_attention_masks_of_another_form(mask, message):
    with pytest.raises(UsageError, match=message):
        line_up({"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": mask}, 3, 9)


def test_a_completion_mask_that_is_not_of_0_and_1():
    with pytest.raises(UsageError, match="completion_mask: expected bool or 0 and 1, got 2 at row 0, position 1"):
        line_up({"input_ids": torch.tensor([[1, 2, 3]])}, 3, 9, completion_mask=torch.tensor([[0, 2, 1]]))


class TestRowsWithoutATokenThatCounts:
    IDS = torch.tensor([[4, 5, 6, 7, 0], [4, 5, 8, 8, 8], [3, 3, 3, 9, 9]])
    MASK = torch.tensor([[0, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 1, 1]])

    def test_belong_to_the_prompt_that_they_begin_with(self):
        found = line_up({"input_ids": self.IDS}, 5, 10, completion_mask=self.MASK)
        assert found.prompts == [[4, 5], [4, 5], [3, 3, 3]]
        assert found.responses == [[6, 7], [], [9, 9]]
        assert not found.unknown

    def test_or_that_is_known_from_before(self):
        inputs = {"input_ids": self.IDS[1:]}
        found = line_up(inputs, 5, 10, completion_mask=self.MASK[1:])
        assert found.unknown == {0}
        found = line_up(inputs, 5, 10, completion_mask=self.MASK[1:], known_prompts=[(4,), (4, 5), (4, 6)])
        assert found.prompts[0] == [4, 5]
        assert not found.unknown

    def test_a_mask_of_the_completion_says_where_the_prompt_ends(self):
        found = line_up({"input_ids": self.IDS}, 5, 10, completion_mask=torch.zeros(3, 2, dtype=torch.long))
        assert found.prompts == [[4, 5, 6], [4, 5, 8], [3, 3, 3]]
        assert not found.unknown

    def test_holes_are_not_the_policys(self):
        """Tool output: no row, and not in the response; the prompt ends where the completion begins."""
        mask = torch.tensor([[0, 1, 0], [1, 0, 1], [1, 1, 0]])
        found = line_up({"input_ids": self.IDS}, 5, 10, completion_mask=mask)
        assert found.prompts == [[4, 5], [4, 5], [3, 3]]
        assert found.responses == [[7], [8, 8], [3, 9]]
        assert found.position[1].tolist() == [0, 0, 0, 1, 0]


def test_labels_given_stand_before_those_of_the_call():
    ids = torch.tensor([[1, 2, 3]])
    inputs = {"input_ids": ids, "labels": ids}
    assert line_up(inputs, 3, 9).responses == [[2, 3]]
    assert line_up(inputs, 3, 9, labels=torch.tensor([[-100, -100, 7]])).responses == [[7]]
    assert line_up(inputs | {"shift_labels": torch.tensor([[4, -100, 5]])}, 3, 9).responses == [[4, 5]]


def test_a_mask_over_a_cache_speaks_of_the_last_positions():
    inputs = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.tensor([[0, 0, 1, 1, 1]])}
    assert line_up(inputs, 3, 9).responses == [[2, 3]]


def test_embeddings_with_labels_and_without():
    inputs = {"inputs_embeds": torch.zeros(1, 3, 4)}
    assert line_up(inputs | {"labels": torch.tensor([[-100, 2, 3]])}, 3, 9).responses == [[2, 3]]
    with pytest.raises(UsageError, match="without them the tokens are not known"):
        line_up(inputs, 3, 9)


@pytest.mark.parametrize(
    ("inputs", "positions", "message"),
    [
        ({"input_ids": torch.tensor([1, 2])}, 2, r"input_ids: expected shape \(batch, length\), got \(2,\)"),
        (
            {"input_ids": torch.tensor([[1, 2]]), "labels": torch.tensor([[1]])},
            2,
            r"labels: expected token ids of shape \(1, 2\), as input_ids, got torch.int64 \(1, 1\)",
        ),
        (
            {"input_ids": torch.tensor([[1, 2]]), "shift_labels": [[1, 2]]},
            2,
            r"shift_labels: expected token ids of shape \(1, 2\), as input_ids, got list",
        ),
        (
            {"input_ids": torch.tensor([[1, 2]])},
            3,
            r"expected logits for 2 positions of an input of length 2, got 3",
        ),
        (
            {"input_ids": torch.tensor([[1, 2, 3]]), "logits_to_keep": torch.tensor([0, 1])},
            3,
            r"expected logits for 2 positions of an input of length 3, got 3",
        ),
        (
            {"input_ids": torch.tensor([[1, 2, 12]])},
            3,
            r"input_ids: expected token ids from 0 to 8, got 12 as the token after row 0, position 1; check",
        ),
    ],
)
def test_what_does_not_fit(inputs, positions, message):
    with pytest.raises(UsageError, match=message):
        line_up(inputs, positions, 9)
