"""The completions tables that the installed TRL writes: empty texts, token ids, batches written twice or never."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytest.importorskip("trl", reason="trl is not installed")
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from analysis import UsageError, trace_rollouts
from analysis.offline import read_rollouts
from analysis.offline.trl_tables import repeated_rows
from analysis.records import Run
from analysis.report import summarize_trace
from tests.engines.objective_runs import PROMPTS, is_correct, make_model, make_tokenizer

END = 2  # of the tokenizer
ROW = {"prompt": "3 4", "completion": "5 6", "reward": 1.0, "advantage": 0.5}


class Trained:
    """A training of six steps by TRL, and the ids that it trained on in the order of its tables."""

    def __init__(self, folder: Path, *, log_ids: bool = False, **config: Any) -> None:
        self.tables, self.ids, self.log_ids = folder / "completions", list[list[int]](), log_ids
        arguments = {
            **{"output_dir": str(folder), "use_cpu": True, "bf16": False, "gradient_checkpointing": False},
            **{"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 5, "max_steps": 6},
            **{"report_to": [], "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True},
            **{"log_completions": True, "num_completions_to_print": 0, "learning_rate": 1e-2},
        }
        self.trainer = GRPOTrainer(
            make_model(),
            self.reward,
            GRPOConfig(**(arguments | config)),
            Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
            processing_class=make_tokenizer(),
        )
        self.trainer.train()

    def reward(self, completion_ids: list[list[int]], log_extra: Any, **_: Any) -> list[float]:
        self.ids += completion_ids
        if self.log_ids:
            log_extra("completion_ids", completion_ids)
        return [is_correct(ids) for ids in completion_ids]

    def traced(self, out: Path, source: Any = None, **options: Any) -> Run:
        tables = self.tables if source is None else source
        return trace_rollouts(self.trainer.model, make_tokenizer(), tables, out=out, **options)


def notes_of(run: Run) -> str:
    return " ".join(summarize_trace(run).notes)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Each batch is trained on for two steps, and logged at both."""
    return Trained(tmp_path_factory.mktemp("texts"), steps_per_generation=2)


@pytest.fixture(scope="module")
def with_ids(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Each batch is trained on for one step, and every third one is logged."""
    return Trained(tmp_path_factory.mktemp("with_ids"), log_ids=True, logging_steps=3)


def test_a_completion_that_ended_at_once_is_its_end_token(texts: Trained, tmp_path: Path) -> None:
    first = sorted(texts.tables.iterdir())[0]
    batch = texts.ids[:16]
    assert [END] in batch  # else the test shows nothing
    run = texts.traced(tmp_path, first)
    traced = [row.tolist() for row in run.table("rollouts")["response_ids"]]
    at_once = [ids == [END] for ids in batch]
    assert [ids == [END] for ids in traced] == at_once
    table = run.table("rollouts")
    assert table["finished"].tolist() == at_once
    tokens = run.table("tokens")
    ended = tokens[tokens["rollout"].isin(table.loc[at_once, "rollout"])]
    assert ended["token"].tolist() == [END] * sum(at_once)
    assert f"{sum(at_once)} responses are empty texts: the policy ended them at once" in notes_of(run)
    assert sorted(set(table["length"])) == sorted({len([i for i in ids if i > END]) or 1 for ids in batch})


def test_an_end_token_that_is_asked_for_is_not_doubled(texts: Trained, tmp_path: Path) -> None:
    run = texts.traced(tmp_path, sorted(texts.tables.iterdir())[0], eos=True)
    assert all(row.tolist().count(END) == 1 for row in run.table("rollouts")["response_ids"])


def test_texts_alone_are_said_to_be_inexact(texts: Trained, tmp_path: Path) -> None:
    said = notes_of(texts.traced(tmp_path))
    assert "Inexact token ids: those of prompts and responses come from tokenising again" in said
    assert 'call log_extra("completion_ids", completion_ids) in a reward function' in said


def test_logged_ids_are_those_that_are_traced(with_ids: Trained, tmp_path: Path) -> None:
    run = with_ids.traced(tmp_path)
    assert [END] in with_ids.ids
    logged = with_ids.ids[16:24] + with_ids.ids[40:48]  # the batches of steps 3 and 6, of 8 completions each
    assert [row.tolist() for row in run.table("rollouts")["response_ids"]] == logged
    said = notes_of(run)
    assert "Inexact token ids: those of prompts come" in said
    assert "Exact are responses from 'completion_ids'." in said
    assert "log_extra" not in said


def test_a_batch_that_is_logged_at_several_steps_counts_once(texts: Trained, tmp_path: Path) -> None:
    run = texts.traced(tmp_path)
    rows = run.table("rollouts")
    assert len(texts.ids) == len(rows) == 48
    assert sorted(set(rows["step"])) == [1, 3, 5]
    assert "48 rows are left out: 3 of 6 tables repeat the one before" in notes_of(run)
    assert "incomplete" not in notes_of(run)
    frame = pd.concat([pd.read_parquet(path) for path in sorted(texts.tables.iterdir())])
    assert [rollout.step for rollout in read_rollouts(frame).rollouts] == rows["step"].tolist()


def test_steps_without_a_table_are_told(with_ids: Trained, tmp_path: Path) -> None:
    assert len(with_ids.ids) == 48  # trained on
    run = with_ids.traced(tmp_path)
    assert len(run.table("rollouts")) == 16  # written
    assert "The table is incomplete: its steps are 3 apart (3 to 6)" in notes_of(run)
    assert "logging_steps=1" in notes_of(run)


@pytest.mark.parametrize(
    ("changed", "left_out"),
    [({}, {1}), ({"reward": 0.0}, set()), ({"completion": "5"}, set()), ({"advantage": 0.25}, set())],
)
def test_only_an_equal_batch_is_a_repeat(changed: dict[str, Any], left_out: set[int]) -> None:
    assert repeated_rows([ROW | {"step": 1}, ROW | {"step": 2} | changed])[0] == left_out


def test_equal_rows_of_one_step_are_rollouts_of_their_own() -> None:
    assert repeated_rows([ROW | {"step": 1}] * 4) == (frozenset(), [])


def test_an_uneven_distance_of_steps_is_told_by_its_range() -> None:
    rows = [ROW | {"step": step, "completion": str(step)} for step in (1, 2, 5, 15)]
    (note,) = repeated_rows(rows)[1]
    assert "its steps are 1 to 10 apart (1 to 15)" in note


def test_an_empty_response_of_another_file_stays_an_error() -> None:
    with pytest.raises(UsageError, match="the response is empty"):
        read_rollouts([{"prompt": "3", "response": "", "reward": 1.0}])


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(UsageError, match="Is a directory; expected a file"):
        read_rollouts(tmp_path)
