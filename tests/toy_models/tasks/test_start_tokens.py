"""Prompts from files that begin with the start token of their tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.offline.byte_models import byte_tokenizer, starting_tokenizer
from toy_models import DataFiles, FileTask
from toy_models.tasks.start_tokens import required_start, start_tokens, with_start
from toy_models.verifiers import Case, ExactMatch


def adding_tokenizer() -> Any:
    """A tokenizer of transformers that puts <bos> before a text by default."""
    import transformers as hf

    return hf.PreTrainedTokenizerFast(
        tokenizer_object=starting_tokenizer(), pad_token="<pad>", eos_token="<eos>", bos_token="<bos>"
    )


def file_task(folder: Path, tokenizer: Any, prompts: Any = None, **options: Any) -> FileTask:
    path = folder / "train.jsonl"
    rows = [{"prompt": prompt, "answer": "1"} for prompt in prompts or [f"{i}+{i}=" for i in range(20)]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FileTask(tokenizer, DataFiles(path), options.pop("verifier", ExactMatch()), 3, **options)


def test_what_a_tokenizer_adds() -> None:
    plain, adding = byte_tokenizer(), adding_tokenizer()
    bos = adding.bos_token_id
    assert adding.encode("2") == [bos, *plain.encode("2")]
    assert start_tokens(plain) == ()
    assert start_tokens(adding) == start_tokens(starting_tokenizer()) == (bos,)
    assert required_start(plain) == required_start(adding) == (bos,)
    assert with_start((bos, 5), (bos,)) == with_start((5,), (bos,)) == (bos, 5)
    plain.bos_token = None
    with pytest.raises(ValueError, match="bos: expected a tokenizer with a start token, got one without; leave bos"):
        required_start(plain)


@pytest.mark.parametrize("make", [byte_tokenizer, adding_tokenizer])
def test_prompts_begin_with_it_on_request(tmp_path: Path, make: Any) -> None:
    tokenizer = make()
    without, begun = (file_task(tmp_path, tokenizer, bos=bos).prompts("train") for bos in (False, True))
    assert len(without) == len(begun) == 16
    plain = {prompt.text: prompt.ids for prompt in without}
    shared = [prompt for prompt in begun if prompt.text in plain]  # splits go by the hash of the ids
    assert len(shared) > 10
    assert all(prompt.ids == (tokenizer.bos_token_id, *plain[prompt.text]) for prompt in shared)
    assert all(list(prompt.ids) == tokenizer.encode(prompt.text) for prompt in begun) is (make is adding_tokenizer)


def test_never_twice_and_the_verifier_does_not_see_it(tmp_path: Path) -> None:
    tokenizer = adding_tokenizer()
    written = file_task(tmp_path, tokenizer, [f"<bos>{i}" for i in range(20)], bos=True).prompts("train")
    assert all(prompt.ids[0] == tokenizer.bos_token_id != prompt.ids[1] for prompt in written)
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    cases: list[Case] = []
    verifier = SimpleNamespace(identity={}, judge=lambda given: cases.extend(given) or ExactMatch().judge(given))
    task = file_task(tmp_path, tokenizer, chat_template=True, bos=True, verifier=verifier)
    prompt = task.prompts("train")[0]
    assert prompt.ids[0] == tokenizer.bos_token_id != prompt.ids[1]
    task.verify(prompt.ids, [*tokenizer.encode("1", add_special_tokens=False), tokenizer.eos_token_id])
    (case,) = cases
    assert (case.prompt, case.response, case.finished) == (prompt.text.removeprefix("<bos>"), "1", True)


def test_a_tokenizer_without_one_is_refused(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match="bos: expected a tokenizer with a start token, got one without"):
        file_task(tmp_path, tokenizer, bos=True)
