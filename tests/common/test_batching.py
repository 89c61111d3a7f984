"""Models whose numbers for a row depend on their batch are refused, by whatever would use them in batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from analysis import UsageError
from analysis.common.batching import check_batching
from analysis.evaluation import FixedPrefixes, evaluate
from analysis.gradient_noise import gradient_noise
from analysis.noise import main
from tests.offline.byte_models import byte_tokenizer, small_model
from tests.offline.test_batch_dependence import dynamic, longrope, scaled_by_width
from toy_models import Policy, Prompt, Verdict, get_task, prompt_hash

LOGITS = "the logits of the prompt 'x' differ alone and beside a longer row"


def policy(make: Any) -> Policy:
    tokenizer = byte_tokenizer()
    return Policy(make(len(tokenizer)), tokenizer)


def prompts(*lengths: int) -> list[Prompt]:
    made = [tuple(range(40 + i, 40 + i + n)) for i, n in enumerate(lengths)]
    return [Prompt(prompt_hash(ids), ids, "x", "train", None) for ids in made]


def scaled_by_batch(vocab: int) -> Any:
    """A model whose last layer scales with the mean over the rows, as a norm over the batch does."""
    model = small_model(vocab)
    model.model.norm.register_forward_hook(lambda module, inputs, output: output * (1 + output.mean(0, keepdim=True)))
    return model


def two_sided(vocab: int) -> Any:
    """A model whose tokens see the padding that follows them."""
    model = small_model(vocab)
    model.model.norm.register_forward_hook(lambda module, inputs, output: output + output.mean(1, keepdim=True))
    return model


@pytest.mark.parametrize(
    ("make", "lengths", "longest", "message"),
    [
        (longrope, (4, 9), 23, None),
        (longrope, (4, 9), 24, r"LongRoPE changes the frequencies of all rows where the longest has more than 32"),
        (longrope, (33, 40), 8, None),
        (dynamic, (4, 9), 23, None),
        (dynamic, (4, 9), 24, r"dynamic NTK scales the frequencies of all rows by the longest beyond 32 tokens"),
        (small_model, (4, 9), 60, None),
        (small_model, (7,), 1, None),
        (scaled_by_width, (4, 30), 9, LOGITS),
        (scaled_by_width, (6, 6), 90, LOGITS),  # the responses alone differ in length
        (scaled_by_batch, (6, 6), 9, LOGITS),
        (two_sided, (6, 6), 9, LOGITS),
    ],
)
def test_models_whose_rows_depend_on_their_batch(make: Any, lengths: Any, longest: int, message: str | None) -> None:
    one = policy(make)
    if message is None:
        check_batching(one, prompts(*lengths), longest)
        return
    with pytest.raises(UsageError, match=rf"policy: expected a model whose numbers .* {message}"):
        check_batching(one, prompts(*lengths), longest)


class Ends:
    """Correct is a response that ends at once."""

    name = "ends"

    def __init__(self, policy: Policy, max_new_tokens: int) -> None:
        self.tokenizer, self.max_new_tokens = policy.tokenizer, max_new_tokens

    def prompts(self, split: str) -> list[Prompt]:
        return prompts(4, 9)

    def solutions(self, prompt_ids: Any) -> Any:
        return [(self.tokenizer.eos_token_id,)]

    def verify(self, prompt_ids: Any, response_ids: Any) -> Verdict:
        return Verdict(len(response_ids) == 1, "")


MODELS = [
    (longrope, 24, "LongRoPE changes the frequencies of all rows where the longest has more than 32"),
    (dynamic, 24, "dynamic NTK scales the frequencies of all rows by the longest beyond 32 tokens"),
    (scaled_by_width, 8, LOGITS),
    (scaled_by_batch, 8, LOGITS),
    (small_model, 8, None),
    (longrope, 23, None),
]


@pytest.mark.parametrize(("make", "longest", "message"), MODELS)
def test_evaluations_and_gradient_noise(make: Any, longest: int, message: str | None) -> None:
    one = policy(make)
    task = Ends(one, longest)
    some = task.prompts("train")
    end = [one.eos_id]
    fixed = FixedPrefixes([p.prompt_id for p in some], [list(p.ids) for p in some], [end] * 2)

    def evaluated(length: int = 1) -> Any:
        responses = FixedPrefixes(fixed.prompt_ids, fixed.prompts, [[65] * (length - 1) + end, end])
        return evaluate(one, task, some, fixed=responses, samples=0)

    def noise(**options: Any) -> Any:
        generator = torch.Generator().manual_seed(0)
        return gradient_noise(one, task, some, generator=generator, replicates=3, group_size=1, **options)

    if message is None:
        assert len(evaluated()["p"]) == 2
        assert noise().gradient_sq > 0
        return
    for request in (evaluated, noise):
        with pytest.raises(UsageError, match=rf"policy: expected a model whose numbers .* {message}"):
            request()
    if make in (longrope, dynamic):
        assert noise(max_new_tokens=23).gradient_sq > 0  # no row beyond the boundary
        task.max_new_tokens = 4
        assert len(evaluated(23)["p"]) == 2
        with pytest.raises(UsageError, match=message):
            evaluated(24)  # the fixed prefixes count, too


def test_the_noise_command_names_the_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = get_task("path-small").tokenizer
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    model = small_model(len(tokenizer), max_position_embeddings=6, rope_parameters=rope)
    Policy(model, tokenizer).save(tmp_path)
    small = ["--task", "path-small", "--prompts", "2", "--group-size", "1", "--replicates", "3", "--quiet"]
    assert main(["--base", str(tmp_path), *small]) == 2
    message = f"error: --base {tmp_path}: expected a model whose numbers for a row do not depend on the rest"
    assert message in " ".join(capsys.readouterr().err.split())
