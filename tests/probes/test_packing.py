"""Several sequences in one row are as many rollouts: packed, and padded one by one, give the same records."""

from __future__ import annotations

import warnings
from itertools import chain

import pandas as pd
import pytest
import torch

import analysis
from analysis import RecordSpec, UsageError
from analysis.probes.token_alignment import line_up
from tests.probes.causal_lms import small_lm
from tests.probes.loops import batch, sequences, token_log_probs

EVERY = RecordSpec(tokens=1)
REWARDS = [1.0, 0.0, 1.0, 0.0]


def packed(prompts, responses, fill: int = 0, rising: bool = False):
    """ids, position_ids and labels (1, T) of all sequences one after the other, and their lengths.

    What fills the row up stands at position 0, or, as verl and ulysses have it, is a sequence of its own.
    """
    whole = [p + r for p, r in zip(prompts, responses, strict=True)]
    labels = [[-100] * len(p) + r for p, r in zip(prompts, responses, strict=True)]
    ids = torch.tensor([[*chain.from_iterable(whole)] + [0] * fill])
    positions = torch.tensor([[t for tokens in whole for t in range(len(tokens))] + [t * rising for t in range(fill)]])
    return (
        ids,
        positions,
        torch.tensor([[*chain.from_iterable(labels)] + [-100] * fill]),
        [len(tokens) for tokens in whole],
    )


def weighted(log_probs):
    return -sum(((1 + i) * x * torch.linspace(0.5, 1, len(x), dtype=x.dtype)).sum() for i, x in enumerate(log_probs))


def of_padded(model, prompts, responses):
    inputs = batch(prompts, responses, "right")
    labels = inputs.pop("labels")
    with analysis.attach(model, labels=labels, record=EVERY) as trace:
        weighted(token_log_probs(model(**inputs).logits, labels)).backward()
        trace.step(rewards=REWARDS)
    return trace.records()


@pytest.mark.parametrize("how", ["labels", "labels of the call", "mask", "two rows"])
@pytest.mark.parametrize(("fill", "rising"), [(0, False), (3, False), (3, True)])
def test_packed_and_padded_are_the_same(how, fill, rising):
    model = small_lm("llama", dtype=torch.float64)
    prompts, responses = sequences()
    responses[2] = responses[2][:1]
    expected = of_padded(model, prompts, responses)
    ids, positions, labels, lengths = packed(prompts, responses, fill, rising)
    given = {}
    if how == "labels":
        given["labels"] = labels
    if how in ("mask", "two rows"):
        given["completion_mask"] = labels != -100
    if how == "two rows":  # the second packed row is longer
        cut = sum(lengths[:2])
        width = max(cut, sum(lengths[2:])) + fill
        rows = [slice(0, cut), slice(cut, sum(lengths))]
        ids, positions, labels = (
            torch.stack(
                [torch.nn.functional.pad(x[0, part], (0, width - x[0, part].numel()), value=v) for part in rows]
            )
            for x, v in ((ids, 0), (positions, 0), (labels, -100))
        )
        given["completion_mask"] = labels != -100
    call = {"labels": labels} if how == "labels of the call" else {}
    with analysis.attach(model, record=EVERY, **given) as trace:
        logits = model(input_ids=ids, position_ids=positions, use_cache=False, **call).logits
        log_pi = logits.log_softmax(-1)
        parts, counts = [], (labels != -100)
        for row in range(len(ids)):
            at = counts[row].nonzero().squeeze(1)
            parts += [log_pi[row, t - 1, ids[row, t]] for t in at]
        weighted(torch.stack(parts).split([len(r) for r in responses])).backward()
        trace.step(rewards=REWARDS)
    records = trace.records()
    for name in ("prompts", "rollouts", "tokens"):
        pd.testing.assert_frame_equal(records[name], expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["position_ids", "cu_seq_lens_q", "cu_seqlens", "cu_seqlens_cpu", "seq_idx", "attention_mask", "all"]
)
@pytest.mark.parametrize("fill", [0, 2])
def test_the_forms_in_which_a_model_is_told(name, fill):
    prompts, responses = [[5, 6], [7], [8, 9, 5]], [[3], [4, 3], [6, 6]]
    ids, positions, labels, lengths = packed(prompts, responses, fill)
    number = torch.tensor([[i for i, length in enumerate(lengths) for _ in range(length)] + [3] * fill])
    told = {
        "position_ids": positions,
        "cu_seq_lens_q": torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()]),
        "cu_seqlens": torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()]),
        "cu_seqlens_cpu": torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()]),
        "seq_idx": number,
        "attention_mask": (number + 1) * (number < 3),
    }
    inputs = told if name == "all" else {name: told[name]}
    if name in (
        "cu_seq_lens_q",
        "cu_seqlens",
        "cu_seqlens_cpu",
        "all",
    ):  # what fills up has a mask, where offsets do not count it
        inputs.setdefault("attention_mask", (number < 3).long())
    if name == "seq_idx" and fill:
        inputs["attention_mask"] = (number < 3).long()
    found = line_up(inputs | {"input_ids": ids, "labels": labels}, None, 12)
    assert found.prompts == prompts
    assert found.responses == responses
    everything = line_up(inputs | {"input_ids": ids}, None, 12)
    assert everything.prompts == [prompt[:1] for prompt in prompts]
    assert [len(r) for r in everything.responses] == [length - 1 for length in lengths]
    rows = everything.counts.nonzero()
    assert everything.sequence[rows[:, 0], rows[:, 1]].tolist() == [
        i for i, length in enumerate(lengths) for _ in range(length - 1)
    ]


class TestFill:
    """verl pads packed rows with token 0 at positions 0, 1, 2, …, which it also tells as a last sequence."""

    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 0, 0, 0]])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1, 2]])
    offsets = torch.tensor([0, 4, 7, 10])

    @pytest.mark.parametrize(
        "told",
        [
            {"position_ids": positions, "attention_mask": None},
            {"position_ids": positions.expand(3, 1, 10)},
            {"position_ids": positions.expand(4, 1, 10), "cu_seqlens": offsets, "cu_seqlens_cpu": offsets},
            {"cu_seqlens": offsets[:-1]},
            {"seq_idx": torch.tensor([[0, 0, 0, 0, 1, 1, 1, -1, -1, -1]])},
            {"position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1, 0]])},  # to a multiple twice
        ],
    )
    @pytest.mark.parametrize("labelled", [False, True])
    def test_is_no_sequence(self, told, labelled):
        labels = self.ids.masked_fill(torch.tensor([[1, 0, 0, 0, 1, 0, 0, 1, 1, 1]]).bool(), -100)
        found = line_up(told | {"input_ids": self.ids} | ({"labels": labels} if labelled else {}), 10, 12)
        assert (found.prompts, found.responses) == ([[5], [9]], [[6, 7, 8], [10, 11]])
        assert found.unknown == frozenset()
        assert found.counts.nonzero()[:, 1].tolist() == [0, 1, 2, 4, 5]

    def test_of_the_padding_token_of_the_model(self):
        ids = self.ids.masked_fill(self.ids == 0, 3)
        inputs = {"input_ids": ids, "position_ids": self.positions}
        assert len(line_up(inputs, 10, 12)) == 3  # nothing says that 3 is padding
        assert len(line_up(inputs, 10, 12, fill={0, 3})) == 2
        assert len(line_up(inputs | {"labels": ids.masked_fill(ids == 3, -100)}, 10, 12)) == 2

    def test_a_last_sequence_of_text_stays(self):
        ids = self.ids.clone()
        ids[0, -1] = 4
        inputs = {"input_ids": ids, "position_ids": self.positions}
        assert line_up(inputs, 10, 12).responses[2] == [0, 4]
        masked = line_up(inputs | {"labels": ids.masked_fill(self.positions > -1, -100)}, 10, 12)
        assert len(masked) == 3  # rollouts that are masked throughout are still rollouts

    def test_a_row_of_padding_alone_is_left_to_the_others(self):
        ids = torch.cat([self.ids, torch.zeros_like(self.ids)])
        found = line_up({"input_ids": ids, "position_ids": self.positions.expand(2, -1)}, 10, 12)
        assert found.responses[:2] == [[6, 7, 8], [10, 11]]

    def test_rewards_are_of_the_sequences_alone(self):
        model = small_lm("llama")
        prompts, responses = sequences()
        ids, positions, labels, _ = packed(prompts, responses, fill=4, rising=True)
        with warnings.catch_warnings(), analysis.attach(model, record=EVERY) as trace:
            warnings.simplefilter("error")
            model(input_ids=ids, position_ids=positions, labels=labels, use_cache=False).loss.backward()
            trace.step(rewards=REWARDS)
        assert trace.records()["rollouts"]["reward"].tolist() == REWARDS


def test_labels_at_the_start_of_a_sequence_do_not_count():
    """The token before belongs to another sequence, and its logits are of that one."""
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "position_ids": torch.tensor([[0, 1, 0, 1]])}
    found = line_up(inputs | {"labels": inputs["input_ids"]}, 4, 12)
    assert found.responses == [[6], [8]]


def test_left_padding_with_positions_but_no_mask():
    inputs = {"input_ids": torch.tensor([[0, 0, 5, 6, 7]]), "position_ids": torch.tensor([[0, 0, 0, 1, 2]])}
    assert line_up(inputs, 5, 9).responses == [[6, 7]]


def test_positions_of_padded_rows_are_not_taken_for_packing():
    ids = torch.tensor([[0, 0, 5, 6], [5, 6, 7, 8]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    for positions in ([[1, 1, 0, 1], [0, 1, 2, 3]], [[0, 0, 0, 1], [0, 1, 2, 3]], [[0, 1, 2, 3]], [[7, 8, 9, 10]]):
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": torch.tensor(positions)}
        assert len(line_up(inputs, 4, 9)) == 2


def test_three_axes_of_positions():
    """Those of images stand still on some axes, which begins no sequence."""
    text = torch.tensor([[0, 1, 2, 3, 4, 0, 1]])
    still = torch.tensor([[0, 1, 1, 1, 2, 0, 1]])
    inputs = {"input_ids": torch.arange(3, 10)[None], "position_ids": torch.stack([text, still, still])}
    assert [len(r) for r in line_up(inputs, 7, 12).responses] == [4, 1]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"position_ids": [[0, 0, 0, 0]]}, "position_ids: expected positions that count up within each sequence"),
        (
            {"position_ids": [[0, 1, 1, 2]]},
            "expected positions that count up, or start anew at 0 .*got 1 after 1 at row 0",
        ),
        ({"position_ids": [[0, 1, 2]]}, r"position_ids: expected one for each token, shape \(1, 4\), got \(1, 3\)"),
        (
            {"cu_seqlens": [0, 3, 2]},
            r"cu_seqlens: expected offsets from 0 to at most 4 that do not fall, got \[0, 3, 2\]",
        ),
        ({"cu_seqlens": [1, 4]}, "cu_seqlens: expected offsets from 0"),
        (
            {"position_ids": [[[9, 10, 7, 8]], [[9, 10, 7, 8]], [[9, 9, 7, 7]]]},
            "expected positions that count up, or start anew at 9 .*got 7 after 10 at row 0, position 2",
        ),
        (
            {"cu_seqlens": [0, 2, 4], "cu_seqlens_cpu": [0, 3, 4]},
            "cu_seqlens_cpu: expected sequences that begin where cu_seqlens has them begin, got another place",
        ),
        ({"seq_idx": [[0, 0, 1]]}, "seq_idx: expected the number of each token's sequence"),
        (
            {"position_ids": [[0, 1, 0, 1]], "cu_seqlens": [0, 3, 4]},
            "cu_seqlens: expected sequences that begin where position_ids has them begin, got another place at row 0",
        ),
    ],
)
def test_what_contradicts(inputs, message):
    tensors = {name: torch.tensor(values) for name, values in inputs.items()}
    with pytest.raises(UsageError, match=message):
        line_up({"input_ids": torch.tensor([[5, 6, 7, 8]])} | tensors, 4, 12)


def test_a_share_of_packed_prompts():
    model = small_lm("llama")
    prompts, responses = sequences(8)
    ids, positions, labels, _ = packed(prompts, responses)
    with analysis.attach(model, record=RecordSpec(tokens=0.3), labels=labels) as trace:
        model(input_ids=ids, position_ids=positions, use_cache=False).logits.log_softmax(-1)[..., 5].sum().backward()
        trace.step(rewards=[float(i) for i in range(8)])
    rollouts, tokens = trace.records()["rollouts"], trace.records()["tokens"]
    assert 0 < len(rollouts) < 8
    assert rollouts["reward"].tolist() == rollouts["rollout"].tolist()
    assert [list(r) for r in rollouts["response_ids"]] == [responses[i] for i in rollouts["rollout"]]
    assert tokens.groupby("rollout").size().tolist() == rollouts["length"].tolist()


class TestMaskedRollouts:
    def test_across_accumulated_passes(self):
        """One sequence a pass: the masked one belongs to the prompt of the pass before it."""
        model = small_lm("qwen3")
        with analysis.attach(model, record=EVERY) as trace:
            for response, label in (([6, 2], [6, 2]), ([7, 8], [-100, -100])):
                ids = torch.tensor([[4, 5, *response]])
                logits = model(input_ids=ids, labels=torch.tensor([[-100, -100, *label]])).logits
                (logits.log_softmax(-1)[..., 3].sum() * (label[0] > 0)).backward()
            trace.step(rewards=[1.0, 0.0])
        rollouts = trace.records()["rollouts"]
        assert rollouts["group"].tolist() == [0, 0]
        assert rollouts["reward"].tolist() == [1, 0]
        assert rollouts["length"].tolist() == [2, 0]

    def test_whose_prompt_is_not_known_are_left_out_with_a_warning(self):
        model = small_lm("qwen3")
        ids = torch.tensor([[4, 5, 6, 2], [9, 9, 7, 8]])
        labels = torch.tensor([[-100, -100, 6, 2], [-100] * 4])
        with analysis.attach(model, record=EVERY) as trace:
            with pytest.warns(UserWarning, match=r"no token counts in sequence 1 of a forward pass \(1 of 2\)"):
                loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            trace.step(rewards=[1.0, 0.0])
        assert trace.records()["rollouts"]["rollout"].tolist() == [0]


class TestGroups:
    def test_of_prompts_that_share_their_text(self):
        model = small_lm("qwen3")
        inputs = batch([[4, 5]] * 4, [[6, 7], [8, 9], [6, 8], [9]])
        for groups, expected in (
            (None, [0, 0, 0, 0]),
            (["a", "a", "b", "b"], [0, 0, 1, 1]),
            (torch.tensor([7, 7, 3, 7]), [0, 0, 1, 0]),
        ):
            with analysis.attach(model, record=EVERY) as trace:
                model(**inputs).loss.backward()
                trace.step(rewards=REWARDS, groups=groups)
            assert trace.records()["rollouts"]["group"].tolist() == expected

    def test_that_do_not_fit(self):
        model = small_lm("qwen3")
        with analysis.attach(model, record=EVERY) as trace, warnings.catch_warnings():
            model(**batch([[4, 5], [4, 5], [8], [8]], [[6], [7], [8], [9]])).loss.backward()
            with pytest.raises(UsageError, match="groups: expected 4 names or numbers, one for each sequence, got 2"):
                trace.step(groups=[0, 1])
            with pytest.raises(UsageError, match="expected one prompt in each group, got two in 1: sequences 1 and 2"):
                trace.step(groups=[0, 1, 1, 1])
            trace.step(groups=[0, 0, 1, 1])
