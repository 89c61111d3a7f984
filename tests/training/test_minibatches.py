import dataclasses
import itertools

import pytest
import torch

from analysis.common.randomness import PURPOSES, Streams
from analysis.recipes.fields import OptimizerFields, UpdateFields
from analysis.training.minibatches import plan_minibatches
from analysis.training.optimizer import learning_rate, make_optimizer
from analysis.training.rollouts import PromptCursor

SELECTED = torch.tensor([True, False, False, True, True, False, False, True, False, False])


def plan(seed=0, **fields):
    parts = plan_minibatches(SELECTED, UpdateFields(**fields), torch.Generator().manual_seed(seed))
    return [part.tolist() for part in parts]


def test_keep_covers_every_row_once():
    parts = plan(minibatches=3)
    assert [len(p) for p in parts] == [4, 3, 3]
    assert sorted(itertools.chain(*parts)) == list(range(10))


def test_drop_before_keeps_the_number_of_updates_and_shares_the_order():
    kept = plan(minibatches=2, rows="drop")
    assert [len(p) for p in kept] == [2, 2]
    everything = list(itertools.chain(*plan(minibatches=1)))
    assert list(itertools.chain(*kept)) == [i for i in everything if SELECTED[i]]


def test_drop_before_with_a_row_count_makes_fewer_updates():
    assert [len(p) for p in plan(minibatch_size=3, rows="drop")] == [3, 1]
    assert [len(p) for p in plan(minibatch_size=3, rows="keep")] == [3, 3, 3, 1]


def test_drop_after_filters_each_minibatch():
    dropped = plan(minibatches=5, rows="drop", drop="after")
    full = plan(minibatches=5)
    assert dropped == [[i for i in part if SELECTED[i]] for part in full]
    assert any(not part for part in dropped)


def test_more_minibatches_than_rows_leaves_empty_ones():
    assert [len(p) for p in plan(minibatches=6, rows="drop")] == [1, 1, 1, 1, 0, 0]


def test_default_is_one_minibatch():
    assert [len(p) for p in plan()] == [10]


def test_cosine_and_warmup():
    fields = OptimizerFields(lr=2.0, schedule="cosine", warmup_steps=4)
    rates = [learning_rate(fields, s, 12) for s in range(12)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0
    assert rates[8] == pytest.approx(1.0, abs=1e-12)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))


def test_optimisers_take_their_settings():
    p = torch.nn.Parameter(torch.ones(2))
    adam = make_optimizer([p], OptimizerFields(betas=(0.5, 0.6), eps=1e-3, weight_decay=0.1, lr=0.2))
    assert {k: adam.param_groups[0][k] for k in ("betas", "eps", "weight_decay", "lr")} == {
        "betas": (0.5, 0.6),
        "eps": 1e-3,
        "weight_decay": 0.1,
        "lr": 0.2,
    }
    sgd = make_optimizer([p], OptimizerFields(name="sgd", momentum=0.7, weight_decay=0.1, lr=0.2))
    assert isinstance(sgd, torch.optim.SGD)
    assert {k: sgd.param_groups[0][k] for k in ("momentum", "weight_decay", "lr")} == {
        "momentum": 0.7,
        "weight_decay": 0.1,
        "lr": 0.2,
    }


def test_streams_are_apart_and_restorable():
    streams = Streams(3)
    first = {p: streams.uniforms(p, 4) for p in PURPOSES}
    assert len({tuple(v.tolist()) for v in first.values()}) == len(PURPOSES)
    state = streams.state_dict()
    following = streams.uniforms("shuffle", 5)
    streams.uniforms("evaluation", 100)
    streams.load_state_dict(state)
    assert torch.equal(streams.uniforms("shuffle", 5), following)


def test_cursor_visits_every_prompt_before_repeating_and_restores():
    cursor = PromptCursor(7, 3, torch.Generator().manual_seed(0))
    a, b = cursor.next(), cursor.next()
    assert len({*a, *b}) == 6
    state, g = cursor.state_dict(), torch.Generator().manual_seed(1)
    other = PromptCursor(7, 3, g)
    other.load_state_dict(state)
    g.set_state(cursor._generator.get_state())
    assert other.next() == cursor.next()


def test_cursor_refuses_more_than_there_are():
    with pytest.raises(ValueError, match=r"rollout.prompts: expected at most task.train_prompts = 3, got 4"):
        PromptCursor(3, 4, torch.Generator())


def test_fields_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        UpdateFields().epochs = 3  # type: ignore[misc]
