"""Dumps of verl and its kin: rows that fill up a batch, rewards under two names, sessions, ids under other names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from analysis import UsageError, trace_rollouts
from analysis.offline import RolloutScorer, read_rollouts
from analysis.offline.verl_dumps import is_padding, key_of
from analysis.trace import main
from tests.offline.byte_models import byte_tokenizer, small_model
from tests.offline.small import make_model, make_tokenizer, save, write_jsonl

PAD = "pad" + "0a" * 16


def row(uid: str, prompt: str = "1 + 1 :", response: str = "2", score: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"input": prompt, "output": response, "gts": "2", "score": score, "step": 3, "uid": uid} | more


def padding(place: int, **more: Any) -> dict[str, Any]:
    return row(f"{PAD}_{place}_0", "", "", 0.0, **more)


class TestPadding:
    ROWS = (row("a_0_0"), padding(0), row("a_1_0", response="3", score=0.0), padding(1))

    def test_left_out_with_a_count(self, tmp_path: Path) -> None:
        file = read_rollouts(write_jsonl(tmp_path / "3.jsonl", list(self.ROWS)))
        assert [(r.row, r.group, r.reward) for r in file.rollouts] == [(1, "a", 1.0), (3, "a", 0.0)]
        assert "2 of 4 rows are left out: verl filled up a batch with them" in " ".join(file.notes)
        assert len(file.bad) == 0

    def test_traced_as_the_file_without_them(self, tmp_path: Path) -> None:
        model, tokenizer = make_model(), make_tokenizer()
        whole, clean = (
            trace_rollouts(model, tokenizer, rows, out=tmp_path / name)
            for name, rows in (("whole", list(self.ROWS)), ("clean", [self.ROWS[0], self.ROWS[2]]))
        )
        for table in ("rollouts", "tokens", "prompts"):
            assert whole.table(table).equals(clean.table(table))

    def test_of_any_table_that_has_the_names(self) -> None:
        rows = [{"prompt": "1 :", "response": "2", "reward": 1.0, "uid": uid} for uid in ("a_0_0", f"{PAD}_0_0")]
        assert len(read_rollouts(rows, format="plain").rollouts) == 1

    def test_texts_are_not_what_tells_them(self) -> None:
        """A tokenizer whose end token is not special leaves text; a rollout that ended at once leaves none."""
        rows = [row(f"{PAD}_0_0", "$ $", "$"), row("a_0_0", response=""), row("padded_0_0"), row("pad_0_0")]
        assert [is_padding(r) for r in rows] == [True, False, False, False]
        assert [r.response for r in read_rollouts(rows).rollouts] == ["", "2", "2"]

    def test_nothing_else_is_an_error_that_says_so(self) -> None:
        with pytest.raises(UsageError, match=r"has no row that can be used: .* 1 of 1 rows are left out: verl filled"):
            read_rollouts([padding(0)])

    def test_a_scorer_gives_them_null_and_the_others_their_own(self) -> None:
        scorer = RolloutScorer(make_model(), make_tokenizer())
        with pytest.warns(UserWarning, match="batch: Inexact token ids"):
            scored = scorer(pa.Table.from_pylist(list(self.ROWS)))
        alone = scorer(pa.Table.from_pylist([self.ROWS[2]]))
        assert scored.column("token").to_pylist()[1::2] == [None, None]
        assert scored.column("token").to_pylist()[2] == alone.column("token").to_pylist()[0]

    def test_of_prime_rl(self) -> None:
        export = {"schema_version": 1, "token_ids": [5, 6, 7], "inference_logprobs": [0, -1.0, -2.0]}
        file = read_rollouts([export | {"loss_mask": mask} for mask in ([0, 1, 1], [0, 0, 0])])
        assert [r.response_ids for r in file.rollouts] == [(6, 7)]
        assert "1 of 2 rows are left out: their loss_mask is 0 throughout" in " ".join(file.notes)

    def test_of_slime_before_the_first_token(self) -> None:
        sample = {"tokens": [5, 6, 7], "response_length": 2, "reward": 1.0, "status": "completed"}
        aborted = {"tokens": [5], "response_length": 0, "reward": None, "status": "aborted"}
        file = read_rollouts([sample, aborted])
        assert [r.response_ids for r in file.rollouts] == [(6, 7)]
        assert "1 of 2 samples are left out: their generation was aborted" in " ".join(file.notes)
        with pytest.raises(UsageError, match="got 0 of 1"):
            read_rollouts([sample, aborted | {"status": "completed"}])


class TestRewardAndScore:
    @pytest.mark.parametrize("rewards", [[1.0, 0.0], [True, False], [1, 1e-9], [np.float32(1), 0.0]])
    def test_the_same_is_read_with_a_note(self, rewards: list[Any]) -> None:
        pairs = zip(rewards, (1.0, 0.0), strict=True)
        file = read_rollouts([row(f"a_{i}_0", score=score, reward=r) for i, (r, score) in enumerate(pairs)])
        assert [r.reward for r in file.rollouts] == [1.0, 0.0]
        assert "The columns 'score' and 'reward' hold the same rewards; 'score' is read." in file.notes

    def test_rounding_of_float32_is_the_same(self) -> None:
        file = read_rollouts([row("a_0_0", score=float(np.float32(0.1)), reward=0.1)])
        assert file.columns["reward"] == "score"

    @pytest.mark.parametrize("gts", [True, False])
    def test_others_need_a_choice(self, gts: bool) -> None:
        rows = [row("a_0_0", score=1.0, reward=1.0), row("a_1_0", score=1.0, reward=0.5)]
        rows = rows if gts else [{name: value for name, value in r.items() if name != "gts"} for r in rows]
        said = r"either of which may be the reward, and they differ \(such as .*\); choose one with columns reward="
        with pytest.raises(UsageError, match=said):
            read_rollouts(rows)
        for name, rewards in (("reward", [1.0, 0.5]), ("score", [1.0, 1.0])):
            assert [r.reward for r in read_rollouts(rows, columns={"reward": name}).rollouts] == rewards

    def test_a_verifier_needs_none(self) -> None:
        (rollout,) = read_rollouts([row("a_0_0", score=1.0, reward=0.5)], with_answers=True).rollouts
        assert (rollout.answer, rollout.reward) == ("2", None)


def test_outputs_of_one_rollout_are_compared_where_they_saw_the_same_prompt(tmp_path: Path) -> None:
    rows = [row("a_0_0"), row("a_0_1", "1 + 1 : 2 :", "3"), row("a_1_0", response="4"), row("b_0_0", "2 :")]
    file = read_rollouts(rows)
    groups = [r.group for r in file.rollouts]
    assert groups[0] == groups[2] != groups[1]
    assert groups[3] == "b"
    assert "1 rollouts have several outputs" in " ".join(file.notes)
    run = trace_rollouts(make_model(), make_tokenizer(), rows, out=tmp_path / "run")
    assert run.table("rollouts")["group"].tolist() == [0, 1, 0, 2]


def test_names_of_rows() -> None:
    key = key_of("3f_a_12_3")
    assert key is not None
    assert (key.prompt, key.session, key.output) == ("3f_a", 12, 3)
    assert key_of("3f-a") is None
    assert key_of(7) is None


class TestIds:
    @pytest.mark.parametrize(
        ("more", "columns"),
        [
            ({"prompts": [5, 6], "responses": [7, 8]}, ("prompts", "responses")),
            (
                {"extra": {"prompt_ids": [5, 6], "output_token_ids": [7, 8]}},
                ("extra.prompt_ids", "extra.output_token_ids"),
            ),
            ({"prompt_token_ids": [5, 6], "meta": {"info": {"completion_tokens": [7, 8]}}}, None),
        ],
    )
    def test_are_preferred_under_whatever_name(self, more: dict[str, Any], columns: tuple[str, str] | None) -> None:
        file = read_rollouts([row("a_0_0", **more)])
        (rollout,) = file.rollouts
        assert (rollout.prompt_ids, rollout.response_ids) == ((5, 6), (7, 8))
        assert not file.inexact
        if columns is not None:
            assert (file.columns["prompt_ids"], file.columns["response_ids"]) == columns
            assert f"The column {columns[1]!r} holds token ids of responses, which are traced" in " ".join(file.notes)

    def test_stand_where_text_was_expected(self) -> None:
        (rollout,) = read_rollouts([{"prompt": [5, 6], "response": [7, 8], "reward": 1.0}]).rollouts
        assert (rollout.prompt, rollout.prompt_ids, rollout.response_ids) == (None, (5, 6), (7, 8))

    @pytest.mark.parametrize("value", [3, [0.5, 1.5], [], [-1, 3], ["a"], [True]])
    def test_other_values_of_such_names_are_none(self, value: Any) -> None:
        """usage.completion_tokens of a server is a count."""
        (rollout,) = read_rollouts([row("a_0_0", usage={"completion_tokens": value})]).rollouts
        assert (rollout.response, rollout.response_ids) == ("2", None)

    def test_the_users_choice_goes_before(self) -> None:
        rows = [row("a_0_0", output_ids=[7, 8])]
        for columns in ({"response_ids": "-"}, {"response": "output"}):
            assert read_rollouts(rows, columns=columns).rollouts[0].response_ids is None


class TestReencoding:
    """What a dump of texts has lost, counted; the ids below are what was sampled."""

    def warned(self, rows: Any, tokenizer: Any, out: Path, **options: Any) -> str:
        with pytest.warns(UserWarning, match="trace: Inexact token ids") as caught:
            run = trace_rollouts(small_model(len(tokenizer)), tokenizer, rows, out=out, **options)
        (note,) = [note for note in run.info["trace"]["notes"] if note.startswith("Warning: ")]
        assert note.removeprefix("Warning: ") in str(caught[0].message)
        return str(note)

    def test_random_bytes_do_not_survive(self, tmp_path: Path) -> None:
        tokenizer, rng = byte_tokenizer(), np.random.default_rng(0)
        sampled = [rng.integers(0, 256, 24).tolist() for _ in range(16)]
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in sampled]
        differ = sum(
            tokenizer.encode(t, add_special_tokens=False) != ids for t, ids in zip(texts, sampled, strict=True)
        )
        assert differ == 16
        rows = [row(f"a_{i}_0", "1+1=", text) for i, text in enumerate(texts)]
        said = self.warned(rows, tokenizer, tmp_path / "run")
        assert "16 of 16 response texts do not survive decoding and tokenising" in said
        assert "16 of 16 responses have no end token" in said

    def test_end_tokens_that_are_added_are_not_missed(self, tmp_path: Path) -> None:
        said = self.warned([row("a_0_0", "1+1=", "2")], byte_tokenizer(), tmp_path / "run", eos=True)
        assert "All 1 response texts survive" in said
        assert "no end token" not in said

    def test_rows_that_have_both_say_how_often_texts_have_other_tokens(self, tmp_path: Path) -> None:
        """A merge that the sampler did not use: "12" as one token, sampled as two."""
        tokenizer = byte_tokenizer()
        ids = tokenizer.encode("12", add_special_tokens=False)
        odd = [*tokenizer.encode("\u00e9", add_special_tokens=False)[:1], *ids]  # half a character, then text
        rows = [
            row("a_0_0", "1+1=", "12", response_ids=[*ids, tokenizer.eos_token_id]),
            row("a_1_0", "1+1=", tokenizer.decode(odd), response_ids=odd),
            row("a_2_0", "1+1=", "3", response_ids=None),
        ]
        with pytest.warns(UserWarning, match="Of 2 rows that have both, the text of 1 has other tokens than their ids"):
            trace_rollouts(small_model(len(tokenizer)), tokenizer, rows, out=tmp_path / "run")

    @pytest.mark.parametrize("again", [False, True])
    def test_what_a_template_leaves_of_prompts(self, again: bool, tmp_path: Path) -> None:
        template = (
            "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<end>\n{% endfor %}"
            "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
        )
        tokenizer = byte_tokenizer(template)
        trained = tokenizer.apply_chat_template(
            [{"role": "user", "content": "1+1="}], tokenize=False, add_generation_prompt=True
        )
        sampled = tokenizer.encode(trained, add_special_tokens=False)
        prompt = tokenizer.decode(sampled, skip_special_tokens=True)
        assert len(sampled) - len(tokenizer.encode(prompt, add_special_tokens=False)) == 3
        said = self.warned([row("a_0_0", prompt, "2")], tokenizer, tmp_path / "run", chat_template=again)
        assert "1 of 1 prompts end with 'assistant', as the tokenizer's chat template does once" in said
        assert ("were put into the template a second time" in said) == again
        assert ("the policy saw about 3 tokens more" in said) == (not again)

    def test_the_command_says_it_before_and_in_the_summary(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file, folder = write_jsonl(tmp_path / "3.jsonl", [row("a_0_0")]), tmp_path / "run"
        save(tmp_path / "model")
        argv = ["--model", str(tmp_path / "model"), "--rollouts", str(file), "--out", str(folder), "--no-figures"]
        assert main([*argv, "--quiet"]) == 0
        said = capsys.readouterr()
        assert "warning  Inexact token ids: those of prompts and responses" in said.err
        assert "Warning: Inexact token ids" in said.out
        assert "Warning: Inexact token ids" in (folder / "summary.md").read_text()
        assert "Warning: Inexact token ids" in (folder / "report.html").read_text()

    def test_ids_are_not_warned_of(self, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
        rows = [row("a_0_0", prompt_ids=[5, 6], response_ids=[7, 8]), {"prompt": "1 :", "response": "2", "reward": 1}]
        for i, source in enumerate(([rows[0]], [rows[1]])):
            run = trace_rollouts(make_model(), make_tokenizer(), source, out=tmp_path / str(i))
            assert not any(note.startswith("Warning") for note in run.info["trace"]["notes"])
        assert not [w for w in recwarn if "Inexact" in str(w.message)]
