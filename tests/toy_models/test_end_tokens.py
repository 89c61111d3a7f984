"""A model may end in several ways: sampling, judging and tracing honour each of its end tokens."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from toy_models import DataFiles, FileTask, Policy, sample
from toy_models.end_tokens import end_tokens, policy_end_tokens, without_end
from toy_models.tasks.tokenizer import word_tokenizer
from toy_models.verifiers import ExactMatch

WORDS = ["<pad>", "$", "#", "1", "2"]


def tokenizer() -> Any:
    return word_tokenizer(WORDS, pad="<pad>", eos="$")


def model(generation: Any = None, configured: Any = None) -> Any:
    import transformers as hf

    config = hf.Qwen3Config(
        vocab_size=len(WORDS),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        eos_token_id=configured,
        pad_token_id=0,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = hf.AutoModelForCausalLM.from_config(config)
    made.generation_config.eos_token_id = generation
    return made.eval()


@pytest.mark.parametrize(
    ("generation", "configured", "expected"),
    [
        (None, None, (1,)),
        (2, None, (1, 2)),
        ([1, 2], None, (1, 2)),
        ([2, 3], 4, (1, 2, 3)),  # the generation settings go before the configuration
        (None, 2, (1, 2)),
        (None, [2, 1], (1, 2)),
        (torch.tensor([2]), None, (1, 2)),
        (-1, None, (1,)),
    ],
)
def test_which_tokens_end_a_response(generation: Any, configured: Any, expected: tuple[int, ...]) -> None:
    assert end_tokens(tokenizer(), model(generation, configured)) == expected
    assert Policy(model(generation, configured), tokenizer()).end_ids == expected


def test_of_a_policy_of_ones_own() -> None:
    assert policy_end_tokens(SimpleNamespace(eos_id=3, model=model([2]))) == (3, 2)
    assert policy_end_tokens(SimpleNamespace(eos_id=3, end_ids=[4])) == (4,)
    assert end_tokens(None) == ()


def test_an_end_token_inside_stays() -> None:
    assert without_end([2, 3, 2], (1, 2)) == [2, 3]
    assert without_end([2, 3], (1, 2)) == [2, 3]
    assert without_end([], (1,)) == []


def test_sampling_stops_at_each_of_them() -> None:
    uniforms = torch.rand((64, 6), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"group_size": 64, "max_new_tokens": 6, "pad_id": 0, "uniforms": uniforms}
    several = sample(model(), [[3]], eos_id=(1, 2), **options)
    one = sample(model(), [[3]], eos_id=1, **options)
    seen = set()
    for row, length, finished in zip(several.response_ids, several.lengths, several.finished, strict=True):
        ids = row[:length].tolist()
        assert not {1, 2} & set(ids[:-1])
        assert bool(finished) == (ids[-1] in (1, 2))
        assert (row[length:] == 0).all()
        seen |= set(ids)
    assert {1, 2} <= seen
    for i in range(64):  # up to there nothing changes
        common = int(min(several.lengths[i], one.lengths[i]))
        assert several.response_ids[i, :common].tolist() == one.response_ids[i, :common].tolist()
    assert (one.lengths >= several.lengths).all()
    assert (one.lengths > several.lengths).any()


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ([4, 1], "correct"),
        ([4, 2], "correct"),
        ([4], "not finished: no end token"),
        ([3, 2], "wrong answer"),
        ([4, 2, 4], "not finished: no end token"),
    ],
)
def test_a_task_from_files_judges_all_of_them(tmp_path: Path, response: list[int], verdict: str) -> None:
    rows = [{"prompt": prompt, "answer": "2"} for prompt in ("1", "1 1", "1 1 1", "1 1 1 1")]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ends = Policy(model([1, 2]), tokenizer()).end_ids
    task = FileTask(tokenizer(), DataFiles(path), ExactMatch(), 3, end_ids=ends)
    assert task.verify(task.prompts("train")[0].ids, response).reason == verdict
