"""Every token sequence of a text, and exact success probabilities of tasks in texts: against brute force."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from analysis.evaluation import success_probability
from toy_models import EncodedTask, TextItem, word_tokenizer
from toy_models.tasks.encodings import MOST, Encodings

# "12" is a token beside "1" and "2", and "é" is two bytes of which one is a token, too.
VOCABULARY = ["<end>", "<stop>", "1", "2", "12", "21", "Ġ", "Ġ1", "Ã", "©", "Ã©"]
ENDS = (0, 1)


def byte_level(**options: Any) -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(VOCABULARY)}
    backend = Tokenizer(models.BPE(vocabulary, [("1", "2"), ("2", "1"), ("Ġ", "1"), ("Ã", "©")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>", **options)


def words() -> Any:
    return word_tokenizer(["<pad>", "$", "1", "2", "12"], pad="<pad>", eos="$")


def brute_force(tokenizer: Any, text: str, longest: int, without: Any = ()) -> list[tuple[int, ...]]:
    kept = [i for i in range(len(tokenizer)) if i not in without]
    sequences = (s for n in range(longest + 1) for s in itertools.product(kept, repeat=n))
    return sorted(s for s in sequences if tokenizer.decode(list(s), skip_special_tokens=False) == text)


@pytest.mark.parametrize("text", ["12", "121", " 12", "1 12", "é", "1é2", "", "<stop>1", "3"])
@pytest.mark.parametrize("longest", [1, 4])
def test_of_bytes(text: str, longest: int) -> None:
    tokenizer = byte_level(clean_up_tokenization_spaces=False)
    assert Encodings(tokenizer, without=[0]).of(text, longest) == brute_force(tokenizer, text, longest, without=[0])


@pytest.mark.parametrize("text", ["12", "1 2", "12 1 <pad>", "", "x"])
def test_of_words(text: str) -> None:
    assert Encodings(words(), without=[1]).of(text, 3) == brute_force(words(), text, 3, without=[1])


def test_texts_without_a_list() -> None:
    encodings = Encodings(byte_level(clean_up_tokenization_spaces=False))
    assert encodings.of("�", 3) is None
    assert len(encodings.of("12" * 8, 99) or []) < MOST
    assert encodings.of("12" * 40, 99) is None


@pytest.mark.parametrize(
    ("tokenizer", "reason"),
    [
        (byte_level(clean_up_tokenization_spaces=True), "cleans up spaces"),
        (object(), "none of the package tokenizers"),
    ],
)
def test_tokenizers_without_lists(tokenizer: Any, reason: str) -> None:
    encodings = Encodings(tokenizer)
    assert reason in str(encodings.reason)
    with pytest.raises(ValueError, match=f"encodings: .*{reason}"):
        encodings.of("1", 2)
    other = byte_level(clean_up_tokenization_spaces=False)
    other.backend_tokenizer.decoder = decoders.Metaspace()
    assert "Metaspace" in str(Encodings(other).reason)


class Twelve:
    """Responses that read "12" or "21"; `cut` says whether one that was cut off counts."""

    name = "twelve"

    def __init__(self, cut: bool, listed: Any = ("12", "21")) -> None:
        self.cut, self.listed = cut, listed

    def items(self, split: str) -> Any:
        return [TextItem(f"i{i}", " ".join("1" * i), None) for i in range(1, 9)] if split == "train" else None

    def score(self, item: TextItem, text: Any) -> bool:
        return text in ("12", "21") and (self.cut or text.finished)

    def solutions(self, item: TextItem) -> Any:
        return self.listed


@torch.no_grad()
@pytest.mark.parametrize(("cut", "limit"), [(False, 3), (True, 3), (True, 2)])  # "1", "2" fills a limit of 2
@pytest.mark.parametrize("tokenizer", [byte_level(clean_up_tokenization_spaces=False), words()])
def test_success_is_the_sum_over_all_correct_responses(tokenizer: Any, cut: bool, limit: int) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    model = LlamaForCausalLM(config).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    ends = ENDS if len(tokenizer) > 5 else (1,)
    task = EncodedTask(tokenizer, Twelve(cut), limit, end_ids=ends)
    prompt = task.prompts("train")[0]
    solutions = task.solutions(prompt.ids)
    assert solutions is not None
    exact = success_probability(model, [prompt.ids], [solutions]).item()

    total, mass = 0.0, 0.0
    for _, group in itertools.groupby(sorted(_responses(len(tokenizer), ends, limit), key=len), key=len):
        responses = list(group)
        ids = torch.tensor(responses)
        read = torch.cat([torch.tensor([prompt.ids]).expand(len(ids), -1), ids], dim=1)
        log_probs = model(read).logits[:, len(prompt.ids) - 1 : -1].log_softmax(-1)
        p = log_probs.gather(-1, ids[..., None]).sum((1, 2)).exp()
        mass += p.sum().item()
        correct = [task.verify(prompt.ids, response).correct for response in responses]
        total += p[torch.tensor(correct)].sum().item()
    assert mass == pytest.approx(1, abs=1e-12)  # these are all responses
    assert exact == pytest.approx(total, abs=1e-12)
    assert 0 < total < 1
    if len(tokenizer) > 5:  # the tokenizer's own encodings alone are fewer
        canonical = [(*tokenizer.encode(text), end) for text in ("12", "21") for end in ends]
        assert success_probability(model, [prompt.ids], [canonical]).item() < exact - 1e-6


def _responses(size: int, ends: tuple[int, ...], limit: int) -> Any:
    """Every response: it ends at its first end token, or at the limit."""
    inner = [i for i in range(size) if i not in ends]
    for n in range(limit):
        for body in itertools.product(inner, repeat=n):
            yield from ((*body, end) for end in ends)
    yield from itertools.product(inner, repeat=limit)


def test_token_sequences_and_what_is_wrong() -> None:
    tokenizer = byte_level(clean_up_tokenization_spaces=False)
    prompt = EncodedTask(tokenizer, Twelve(False), 3).prompts("train")[0]
    assert EncodedTask(tokenizer, Twelve(False, [(4, 0), [2, 3, 0]]), 3).solutions(prompt.ids) == [(4, 0), (2, 3, 0)]
    assert EncodedTask(tokenizer, Twelve(False, None), 3).solutions(prompt.ids) is None
    with pytest.raises(ValueError, match=r"i1: solutions lists '1', which the score finds wrong"):
        EncodedTask(tokenizer, Twelve(False, ["1"]), 3).solutions(prompt.ids)
    with pytest.raises(ValueError, match=r"i1: solutions lists \[4, 4\], which the score finds wrong"):
        EncodedTask(tokenizer, Twelve(False, [(4, 4)]), 3).solutions(prompt.ids)
    cleaning = EncodedTask(byte_level(clean_up_tokenization_spaces=True), Twelve(False), 3)
    assert cleaning.solutions(prompt.ids) is None
    assert "cleans up spaces" in cleaning.identity["solutions"]
    assert EncodedTask(tokenizer, Twelve(False), 3).identity["solutions"] == "listed"
