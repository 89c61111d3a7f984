"""Whatever can change a number of a trace identifies it: a request that differs is refused with the name of the part.

Each case changes one input between two requests for the same folder.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis import UsageError, trace_rollouts
from analysis.common import identity, provenance
from analysis.common.identity import tokenizer_digest
from analysis.records.folders import RUN_FILE
from tests.offline.byte_models import byte_tokenizer, small_model

TEMPLATE = "{% for m in messages %}<turn>{{ m['content'] }}<end>{% endfor %}<turn>"
VERIFIER = "from rules import same\ndef score(prompt, response, answer):\n    return same(response, answer)\n"
RULES = "def same(a, b):\n    return a == b\n"


class Request:
    """A request for a trace whose inputs can be changed one by one."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.tokenizer = byte_tokenizer(TEMPLATE)
        self.model = small_model(len(self.tokenizer) + 4)
        self.rows = [
            {"prompt": "1+1=", "response": text, "reward": float(text == "2"), "answer": "2", "note": "a"}
            for text in ("2", "3", "22")
        ]
        self.options: dict[str, Any] = {}

    def __call__(self, **last: Any) -> Any:
        path = self.home / "rollouts.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        return trace_rollouts(self.model, self.tokenizer, path, out=self.home / "out", **(self.options | last))

    def with_template(self) -> None:
        self.options["chat_template"] = True

    def with_verifier(self) -> None:
        (self.home / "score.py").write_text(VERIFIER)
        (self.home / "rules.py").write_text(RULES)
        self.options["verifier"] = f"{self.home / 'score.py'}:score"


def nothing(request: Request) -> None:
    pass


def backend(change: Callable[[Any], None]) -> Callable[[Request], None]:
    """A change of the tokenizer's content, in a copy of it."""

    def apply(request: Request) -> None:
        request.tokenizer = copy.deepcopy(request.tokenizer)
        change(request.tokenizer)

    return apply


def lower_case(tokenizer: Any) -> None:
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def option(**values: Any) -> Callable[[Request], None]:
    return lambda request: request.options.update(values)


def configured(**values: Any) -> Callable[[Request], None]:
    def apply(request: Request) -> None:
        for name, value in values.items():
            setattr(request.model.config, name, value)

    return apply


def doubled_weight(request: Request) -> None:
    next(request.model.parameters()).data[0, 0] *= 2


def other_row(name: str, value: Any) -> Callable[[Request], None]:
    return lambda request: request.rows[1].__setitem__(name, value)


def source(name: str, text: str) -> Callable[[Request], Any]:
    return lambda request: (request.home / name).write_text(text)


CASES: dict[str, tuple[Callable[[Request], None], Callable[[Request], Any], str]] = {
    "weights": (nothing, doubled_weight, "weights"),
    "dtype": (nothing, lambda request: request.model.double(), r"dtype \(float32 then, float64 now\)"),
    "configuration": (nothing, configured(rms_norm_eps=0.1), "configuration of the model"),
    "attention": (
        nothing,
        lambda request: request.model.set_attn_implementation("eager"),
        r"attention implementation \(sdpa then, eager now\)",
    ),
    "end tokens": (
        nothing,
        lambda request: setattr(request.model.generation_config, "eos_token_id", [3, 4]),
        "end tokens",
    ),
    "chat template": (
        Request.with_template,
        lambda r: setattr(r.tokenizer, "chat_template", TEMPLATE + "<think>"),
        "chat template",
    ),
    "variables of the template": (
        Request.with_template,
        option(template_arguments={"thinking": True}),
        "setting template_arguments",
    ),
    "added token": (nothing, backend(lambda tokenizer: tokenizer.add_tokens(["11"])), "tokenizer"),
    "normaliser": (nothing, backend(lower_case), "tokenizer"),
    "end token of the tokenizer": (
        nothing,
        backend(lambda tokenizer: setattr(tokenizer, "eos_token", "<end>")),
        "tokenizer",
    ),
    "temperature": (nothing, option(temperature=0.5), r"setting temperature \(1.0 then, 0.5 now\)"),
    "threshold": (nothing, option(threshold=0.5), r"setting threshold \(null then, 0.5 now\)"),
    "eos": (nothing, option(eos=True), r"setting eos"),
    "bos": (nothing, option(bos=True), r"setting bos"),
    "responses_apart": (nothing, option(responses_apart=True), r"setting responses_apart"),
    "on_policy": (nothing, option(on_policy=True), r"setting on_policy"),
    "top_k": (nothing, option(top_k=3), r"setting top_k \(8 then, 3 now\)"),
    "skip_bad": (nothing, option(skip_bad=True), r"setting skip_bad"),
    "columns": (nothing, option(columns={"group": "note"}), "setting columns"),
    "response": (nothing, other_row("response", "4"), "content of the rollouts"),
    "reward": (nothing, other_row("reward", 1.0), "content of the rollouts"),
    "verifier": (nothing, Request.with_verifier, "verifier"),
    "source of the verifier": (
        Request.with_verifier,
        source("score.py", VERIFIER + "# edited\n"),
        "verifier",
    ),
    "what the verifier imports": (Request.with_verifier, source("rules.py", RULES.replace("==", "!=")), "verifier"),
}


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each beginning; its trace is made by the first case and refused to the others."""
    return {name: tmp_path_factory.mktemp(name) for name in ("nothing", "with_template", "with_verifier")}


@pytest.mark.parametrize("case", CASES)
def test_a_request_that_differs_names_what_changed(
    homes: dict[str, Path], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, change, part = CASES[case]
    request = Request(homes[before.__name__])
    monkeypatch.syspath_prepend(str(request.home))  # where the verifier's own module lies
    before(request)
    request()  # made, or shown as it is
    change(request)
    with pytest.raises(UsageError, match=rf"what differs: (.*; )?{part}"):
        request()


@pytest.mark.parametrize("library", ["torch", "transformers", "tokenizers", "numpy"])
def test_versions_of_libraries(tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(tmp_path)
    request()
    found = provenance.versions() | {library: "0.1"}
    monkeypatch.setattr(identity, "versions", lambda: found)
    with pytest.raises(UsageError, match=rf"what differs: version of {library} \(.* then, 0.1 now\)"):
        request()


def test_autocast_and_the_precision_of_products(tmp_path: Path) -> None:
    request = Request(tmp_path)
    request()
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(UsageError, match=r"what differs: autocast \(off then, bfloat16 now\)"),
    ):
        request()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with pytest.raises(UsageError, match=r"precision of float32 products \(highest then, medium now\)"):
            request()
    finally:
        torch.set_float32_matmul_precision(before)


def test_hooks_of_the_user(tmp_path: Path) -> None:
    request = Request(tmp_path)
    request()
    handle = request.model.model.norm.register_forward_hook(lambda module, inputs, output: output + 0.1)
    with pytest.raises(UsageError, match=r"what differs: forward hooks\. Choose"):
        request()
    handle.remove()
    request()


def test_the_code_that_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from analysis.offline import trace_identity

    request = Request(tmp_path)
    request()
    monkeypatch.setattr(trace_identity, "code_of", lambda *places: "other")
    with pytest.raises(UsageError, match=r"what differs: code that traces\. Choose another folder.* analysis.report"):
        request()


def test_a_template_that_renders_otherwise_than_then(tmp_path: Path) -> None:
    """One that writes the date, say: the template is the same, what it gives is not."""
    request = Request(tmp_path)
    request.with_template()
    request.tokenizer.chat_template = "{{ strftime_now('%H%M%S%f') }}" + TEMPLATE
    request()
    with pytest.raises(UsageError, match=r"what differs: rollouts as they were read\. Choose"):
        request()


def test_what_changes_no_number_is_not_asked_for(tmp_path: Path) -> None:
    request = Request(tmp_path)
    first = request()
    request.tokenizer.chat_template = "{{ 'unused' }}"
    request.tokenizer(["1", "22"], padding=True, truncation=True, max_length=4)  # leaves its mark in the backend
    request.model.config._name_or_path = "elsewhere"
    again = request(batch_tokens=1, objectives=["nsr-log"], label="mine")
    assert again.info["hash"] == first.info["hash"]
    assert again.info["trace"]["objectives"] == ["nsr-log"]
    assert again.label == "mine"


def test_a_trace_of_an_earlier_version(tmp_path: Path) -> None:
    request = Request(tmp_path)
    run = request()
    info = json.loads((run.folder / RUN_FILE).read_text())
    del info["trace"]["identity"]
    (run.folder / RUN_FILE).write_text(json.dumps(info | {"hash": "x"}))
    with pytest.raises(UsageError, match=r"what differs: not recorded by its version"):
        request()


def test_tokenizers_in_python() -> None:
    class Plain:
        vocab = {"a": 0, "b": 1}  # noqa: RUF012
        added_tokens_decoder: dict[int, str] = {}  # noqa: RUF012
        eos_token_id = 1

        def get_vocab(self) -> dict[str, int]:
            return self.vocab

    one, other = Plain(), Plain()
    assert tokenizer_digest(one) == tokenizer_digest(other)
    other.vocab = {"a": 1, "b": 0}
    assert tokenizer_digest(one) != tokenizer_digest(other)
    other.vocab, other.eos_token_id = one.vocab, 0
    assert tokenizer_digest(one) != tokenizer_digest(other)


def test_adapters_that_are_switched_off() -> None:
    class Adapter(torch.nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.lora_A, self.scaling, self.disable_adapters = {"a": 1}, {"a": 2.0}, False
            self.active_adapters = ["a"]

    model = small_model(8)
    model.adapter = Adapter()
    before = identity.model_configuration(model)
    model.adapter.disable_adapters = True
    assert identity.model_configuration(model) != before
