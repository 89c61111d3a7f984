"""Prompts in chat templates of every kind, and what tokenizers put at the start of a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import UsageError, report, trace_rollouts
from tests.offline.byte_models import alone, byte_tokenizer, small_model, space_marking_tokenizer
from tests.offline.test_tokenization import encode

TURNS = (
    "{% for m in messages %}<turn>{{ m['role'] }}: {{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant: {% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ASK = {"role": "user", "content": "1+1="}


def encoded(rows: Any, tokenizer: Any, **settings: Any) -> Any:
    from analysis.offline.tokenization import ModelLimits

    return encode(rows, tokenizer, ModelLimits(len(tokenizer), None), **settings)


def row(prompt: Any, response: str = "2", **others: Any) -> dict[str, Any]:
    return {"prompt": prompt, "response": response, "reward": 1.0} | others


class TestTheTurnThatAPromptEndsIn:
    PREFILL = (ASK, {"role": "assistant", "content": "<think>"})

    def test_a_message_of_the_assistant_is_continued(self) -> None:
        (item,) = encoded([row(list(self.PREFILL))], byte_tokenizer(TURNS), chat_template=True)
        assert item.prompt_text == "<turn>user: 1+1=<end><turn>assistant: <think>"
        assert item.question == "1+1="

    def test_or_closed_on_request(self) -> None:
        (item,) = encoded([row(list(self.PREFILL))], byte_tokenizer(TURNS), chat_template=True, new_turn=True)
        assert item.prompt_text == "<turn>user: 1+1=<end><turn>assistant: <think><end><turn>assistant: "

    def test_a_note_says_so(self, tmp_path: Path) -> None:
        tokenizer = byte_tokenizer(TURNS)
        rows = [row(list(self.PREFILL)), row([ASK])]
        run = trace_rollouts(small_model(len(tokenizer)), tokenizer, rows, out=tmp_path, chat_template=True)
        (note,) = run.info["trace"]["notes"]
        assert note.startswith("1 of 2 prompts end with a message of the assistant")
        assert note in report.summarize_trace(run).notes

    def test_reasoning_without_a_content_is_continued(self) -> None:
        template = (
            "{% for m in messages %}<turn>{{ m.role }}: {% if m.reasoning_content %}<think>{{ m.reasoning_content }}"
            "</think>{% endif %}{{ m.content or '' }}<end>{% endfor %}"
        )
        prompt = [ASK, {"role": "assistant", "content": None, "reasoning_content": "so"}]
        (item,) = encoded([row(prompt)], byte_tokenizer(template), chat_template=True)
        assert item.prompt_text.endswith("assistant: <think>so")

    def test_only_a_template_reads_new_turn(self) -> None:
        with pytest.raises(UsageError, match=r"new_turn: only a chat template reads it; add chat_template"):
            encoded([row("1")], byte_tokenizer(), new_turn=True)


class TestTemplatesThatRefuse:
    @pytest.mark.parametrize(
        ("template", "message"),
        [
            (NO_SYSTEM + TURNS, "TemplateError: System role not supported"),
            (
                "{{ messages[0]['content'] + messages[0]['n'] + 1 }}",
                "UndefinedError: 'dict object' has no attribute 'n'",
            ),
            ("{% for m in messages %}{{ m.content }", "TemplateSyntaxError"),
        ],
    )
    def test_the_row_is_named_or_left_out(self, template: str, message: str) -> None:
        system = {"role": "system", "content": "Be brief."}
        tokenizer = byte_tokenizer(template)
        with pytest.raises(UsageError, match=rf"rollouts: rollout 0: .*{message}.*skip_bad"):
            encoded([row([system, ASK])], tokenizer, chat_template=True)

    def test_with_skip_bad_the_others_are_traced(self, tmp_path: Path) -> None:
        tokenizer = byte_tokenizer(NO_SYSTEM + TURNS)
        rows = [row([ASK]), row([{"role": "system", "content": "Be brief."}, ASK])]
        run = trace_rollouts(
            small_model(len(tokenizer)), tokenizer, rows, out=tmp_path, chat_template=True, skip_bad=True
        )
        assert run.info["trace"]["skipped"] == {"prompt that the chat template refuses": 1}
        assert run.rows("rollouts") == 1

    def test_of_a_prompt_with_ids_the_template_is_not_needed(self) -> None:
        prompt = [{"role": "system", "content": "Be brief."}, ASK]
        tokenizer = byte_tokenizer(NO_SYSTEM + TURNS)
        (item,) = encoded([row(prompt, prompt_ids=tokenizer.encode("1+1="))], tokenizer, chat_template=True)
        assert item.prompt_text == "1+1="


class TestShapesOfMessages:
    """What transformers' own `apply_chat_template` takes is rendered as it renders it."""

    PARTS = "{% for m in messages %}<turn>{% for part in m.content %}{{ part.text }}{% endfor %}<end>{% endfor %}"
    TOOLS = (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<turn>{{ m.role }}: {{ m.content or '' }}"
        "{% for call in m.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments | tojson }})"
        "{% endfor %}{% if m.tool_call_id is defined %}[{{ m.tool_call_id }}]{% endif %}<end>{% endfor %}"
        "{% if add_generation_prompt %}<turn>assistant: {% endif %}"
    )
    CALL = ({"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": None}}},)
    TOOL = ({"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}},)

    @pytest.mark.parametrize(
        ("template", "prompt"),
        [
            (PARTS, [{"role": "user", "content": [{"type": "text", "text": "1+"}, {"type": "text", "text": "1="}]}]),
            (TURNS, [{"role": "developer", "content": "Add."}, ASK]),
            (TURNS, [ASK, {"role": "assistant", "content": "2", "reasoning_content": "easy"}, ASK]),
            (TOOLS, [ASK, {"role": "assistant", "content": None, "tool_calls": [*CALL]}]),
            (
                TOOLS,
                [
                    ASK,
                    {"role": "assistant", "content": "", "tool_calls": [*CALL]},
                    {"role": "tool", "content": "2", "tool_call_id": "a"},
                ],
            ),
            (
                "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
                "{% endgeneration %}{% else %}<turn>{{ m.content }}{% endif %}{% endfor %}",
                [ASK, {"role": "assistant", "content": "2"}, ASK],
            ),
        ],
    )
    def test_as_transformers_renders_them(self, template: str, prompt: Any) -> None:
        tokenizer = byte_tokenizer(template)
        (item,) = encoded([row(prompt)], tokenizer, chat_template=True)
        assert item.prompt_text == tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        assert item.question == "1+1="

    def test_tools_and_variables_of_a_row(self) -> None:
        tokenizer = byte_tokenizer("{% if thinking %}<turn>{% endif %}" + self.TOOLS)
        rows = [row([ASK], tools=[*self.TOOL], chat_template_kwargs={"thinking": True}), row([ASK])]
        with_tools, plain = encoded(rows, tokenizer, chat_template=True)
        assert with_tools.prompt_text == tokenizer.apply_chat_template(
            [ASK], tools=[*self.TOOL], tokenize=False, add_generation_prompt=True, thinking=True
        )
        assert plain.prompt_text == "<turn>user: 1+1=<end><turn>assistant: "
        (of_all,) = encoded([row([ASK])], tokenizer, chat_template=True, template_arguments={"thinking": True})
        assert of_all.prompt_text == "<turn>" + plain.prompt_text

    def test_one_part_for_a_template_that_takes_texts(self) -> None:
        parts = [{"role": "user", "content": [{"type": "text", "text": "1+1="}]}]
        for template in (TURNS, "{{ '<turn>user: ' + messages[0].content + '<end><turn>assistant: ' }}"):
            (item,) = encoded([row(parts)], byte_tokenizer(template), chat_template=True)
            assert item.prompt_text == "<turn>user: 1+1=<end><turn>assistant: "

    def test_null_fields_of_parquet_do_not_reach_the_template(self) -> None:
        prompt = [ASK | {"tool_calls": None, "tool_call_id": None}]
        (item,) = encoded([row(prompt)], byte_tokenizer(self.TOOLS), chat_template=True)
        assert item.prompt_text == "<turn>user: 1+1=<end><turn>assistant: "

    @pytest.mark.parametrize(
        ("prompt", "message"),
        [
            ([{"role": "user", "content": [{"type": "image", "url": "x"}]}], r"only texts can be traced"),
            (
                [{"role": "user", "content": [{"type": "text", "text": t} for t in "ab"]}],
                r"got 2 parts; join them in the file",
            ),
            ([{"content": "1"}], r"expected a role \(system, user, assistant, tool, …\) in message 1"),
            ([{"role": "user", "content": None}], r"expected a string or a list of chat messages"),
            ([{"role": "user", "content": []}], r"expected at least one part"),
            ([{"from": "human", "value": "1"}], r"expected a string or a list of chat messages"),
        ],
    )
    def test_others_are_refused(self, prompt: Any, message: str) -> None:
        with pytest.raises(UsageError, match=f"rollouts: rollout 0.*{message}"):
            encoded([row(prompt)], byte_tokenizer(TURNS), chat_template=True)


class TestSeveralTemplates:
    TEMPLATES = {"default": "<turn>{{ messages[0].content }}", "short": "{{ messages[0].content }}"}  # noqa: RUF012

    def test_by_name_or_the_default(self) -> None:
        tokenizer = byte_tokenizer(self.TEMPLATES)
        for chosen, text in ((True, "<turn>1+1="), ("short", "1+1=")):
            (item,) = encoded([row([ASK])], tokenizer, chat_template=chosen)
            assert item.prompt_text == text

    def test_names_that_are_not_there(self) -> None:
        with pytest.raises(UsageError, match=r"expected 'long', got a tokenizer with the templates default, short"):
            encoded([row([ASK])], byte_tokenizer(self.TEMPLATES), chat_template="long")
        with pytest.raises(UsageError, match=r"expected the name of one, got a tokenizer with the templates a"):
            encoded([row([ASK])], byte_tokenizer({"a": "x"}), chat_template=True)
        with pytest.raises(UsageError, match=r"expected the template 'a', got a tokenizer with a single template"):
            encoded([row([ASK])], byte_tokenizer("x"), chat_template="a")


class TestTheStartOfAText:
    def test_a_response_continues_its_prompt(self, tmp_path: Path) -> None:
        tokenizer = space_marking_tokenizer()
        model = small_model(len(tokenizer))
        run = trace_rollouts(model, tokenizer, [row("Q: 1+1=", "2 ok")], out=tmp_path)
        prompt, response = run.table("prompts")["token_ids"][0], run.table("rollouts")["response_ids"][0]
        assert tokenizer.convert_ids_to_tokens(response.tolist()) == ["2", "▁ok"]
        assert tokenizer.decode([*prompt, *response]) == "Q: 1+1=2 ok"
        np.testing.assert_allclose(
            run.table("tokens")["log_prob"], alone(model, prompt.tolist(), response.tolist()), atol=1e-4
        )
        assert any("puts a space before every text" in note for note in report.summarize_trace(run).notes)

    def test_or_is_a_text_of_its_own_on_request(self) -> None:
        tokenizer = space_marking_tokenizer()
        (item,) = encoded([row("Q: 1+1=", "2 ok")], tokenizer, responses_apart=True)
        assert tokenizer.convert_ids_to_tokens(item.response.tolist()) == ["▁2", "▁ok"]

    def test_with_a_space_of_its_own(self) -> None:
        tokenizer = space_marking_tokenizer()
        (item,) = encoded([row("Q: 1+1=", " 2")], tokenizer)
        assert tokenizer.convert_ids_to_tokens(item.response.tolist()) == ["▁2"]

    def test_tokenizers_without_such_a_mark_read_both_apart(self) -> None:
        tokenizer = byte_tokenizer()
        (item,) = encoded([row("1+1=", " 2")], tokenizer)
        assert item.response.tolist() == tokenizer.encode(" 2")

    def with_start(self, template: Any = None) -> Any:
        from tokenizers.processors import TemplateProcessing

        tokenizer = byte_tokenizer(template)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
        )
        return tokenizer

    def test_the_start_token_is_added_on_request_and_never_twice(self, tmp_path: Path) -> None:
        tokenizer = self.with_start()
        bos, plain = tokenizer.bos_token_id, tokenizer.encode("1+1=", add_special_tokens=False)
        assert [i.prompt.tolist() for i in encoded([row("1+1=")], tokenizer)] == [plain]
        assert [i.prompt.tolist() for i in encoded([row("1+1=")], tokenizer, bos=True)] == [[bos, *plain]]
        assert [i.prompt.tolist() for i in encoded([row("<bos>1+1=")], tokenizer, bos=True)] == [[bos, *plain]]
        written = self.with_start("<bos>{{ messages[0].content }}")
        (item,) = encoded([row("1+1=")], written, bos=True, chat_template=True)
        assert item.prompt.tolist() == [bos, *plain]

    def test_notes_say_where_it_is_missing_or_doubled(self, tmp_path: Path) -> None:
        tokenizer = self.with_start()
        rows = [row("1+1="), row("<bos><bos>2+2=")]
        notes = trace_rollouts(small_model(len(tokenizer)), tokenizer, rows, out=tmp_path).info["trace"]["notes"]
        assert notes[0].startswith("1 of 2 prompts do not begin with the start token <bos>")
        assert notes[1] == "1 of 2 prompts begin with the start token twice."

    def test_no_start_token(self) -> None:
        tokenizer = byte_tokenizer()
        tokenizer.bos_token = None
        with pytest.raises(UsageError, match=r"bos: expected a tokenizer with a start token, got one without"):
            encoded([row("1")], tokenizer, bos=True)
