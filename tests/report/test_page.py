"""The page as data and as a file: what is on it, its size, that no text of a model leaves its place."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysis
from analysis.errors import UsageError
from analysis.records import Experiment, Run
from analysis.records.token_text import TOKENIZER_FILE
from analysis.report import StoredReport, page_file, write_report_page
from analysis.report.__main__ import main
from analysis.report.page_data import PageData, page_data
from analysis.report.page_file import MOST_BYTES
from tests.report.by_hand import make_experiment
from tests.report.page_runs import WORDS, token_distribution, write_run

HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(1)> "&amp; @@block@@'


def columns_of(data: PageData) -> dict[str, np.ndarray]:
    """The columns as a browser reads them."""
    block = gzip.decompress(base64.b64decode(data.block))
    kinds = {"Float32Array": "<f4", "Uint32Array": "<u4", "Int32Array": "<i4", "Uint8Array": "u1", "Int8Array": "i1"}
    return {
        name: np.frombuffer(block, kinds[at["type"]], at["length"], at["offset"])
        for name, at in data.header["columns"].items()
    }


def header_of(page: Path) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="header">(.*?)</script>', page.read_text("utf-8"))
    return json.loads(text)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("page") / "nsr-seed0")


class TestData:
    def test_every_recorded_token_has_its_numbers(self, run: Run) -> None:
        data = page_data(run, 1000)
        columns = columns_of(data)
        rows, recorded = columns["token.row"], run.table("tokens")
        own = columns["rollout.panel"][rows] == 0
        assert own.sum() == len(recorded)
        assert data.header["left_out"] == []
        for at in np.flatnonzero(own)[::7]:
            row = rows[at]
            place = (columns["rollout.step"][row], columns["rollout.rollout"][row], columns["token.position"][at])
            probs, token = token_distribution(0, *map(int, place))
            assert columns["token.token"][at] == token
            assert columns["token.log_prob"][at] == pytest.approx(np.log(probs[token]), rel=1e-6)
            start, end = columns["token.top_ids.start"][at : at + 2]
            top = columns["token.top_ids"][start:end]
            np.testing.assert_allclose(columns["token.top_probs"][start:end], probs[top], rtol=1e-6)
            assert columns["token.mismatch"][at] == pytest.approx(0.01, abs=1e-6)

    def test_followed_tokens_point_to_their_outcome(self, run: Run) -> None:
        columns = columns_of(page_data(run, 1000))
        followed = np.flatnonzero((columns["token.flow"] >= 0) & (columns["rollout.panel"][columns["token.row"]] == 0))
        assert len(followed) == run.rows("flows") - 2 * 3  # all but the panel
        assert (columns["token.position"][followed] == 0).all()
        flows = run.table("flows").set_index(["update", "context"])
        for at in followed:
            row, flow = columns["token.row"][at], columns["token.flow"][at]
            step, rollout = int(columns["rollout.step"][row]), int(columns["rollout.rollout"][row])
            recorded = flows.loc[(step, 2 + 4 * step + rollout)]
            assert columns["flow.log_prob_after"][flow] == pytest.approx(recorded["log_prob_after"])
            start, end = columns["flow.top_ids.start"][flow : flow + 2]
            assert columns["flow.top_ids"][start:end].tolist() == list(recorded["top_ids"])

    def test_held_out_prefixes_follow_the_same_tokens(self, run: Run) -> None:
        columns = columns_of(page_data(run, 1000))
        rows = np.flatnonzero(columns["rollout.panel"])
        starts = columns["rollout.ids.start"]
        assert [columns["rollout.ids"][starts[row] : starts[row + 1]].tolist() for row in rows] == [[7], [5, 7]]
        for row in rows:
            at = np.flatnonzero(columns["token.row"] == row)
            assert columns["token.update"][at].tolist() == [0, 1, 2]
            assert np.isnan(columns["token.weight"][at]).all()
            after = columns["flow.log_prob_after"][columns["token.flow"][at]]
            assert (np.diff(after) > 0).all()  # each update pushes further

    def test_a_small_budget_keeps_followed_tokens_and_says_what_is_left_out(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "r", steps=8, length=10)
        data = page_data(run, 60)
        shown = columns_of(data)["token.row"]
        assert len(shown) <= 60 + 20  # the first response is taken whole
        assert any(re.search(r"of 320 recorded tokens are shown", sentence) for sentence in data.header["left_out"])
        assert (columns_of(data)["token.flow"] >= 0).any()

    def test_runs_of_one_experiment_show_the_same_prompts(self, tmp_path: Path) -> None:
        runs = [
            write_run(tmp_path / label, label=label, steps=8, length=10, contexts=False) for label in ("PSR", "NSR")
        ]
        columns = columns_of(page_data(runs, 200))
        shown = [
            {
                (step, prompt)
                for step, prompt, owner in zip(
                    columns["rollout.step"], columns["rollout.prompt"], columns["rollout.run"], strict=True
                )
                if owner == at
            }
            for at in (0, 1)
        ]
        assert shown[0] == shown[1]


class TestFile:
    def test_a_page_is_one_file_that_fetches_nothing(self, run: Run, tmp_path: Path) -> None:
        page = write_report_page(run, tmp_path / "new" / "p.html")
        text = page.read_text("utf-8")
        assert "default-src 'none'" in text
        assert not re.search(r'(src|href)="(?!data:|#)', text)
        assert header_of(page)["name"] == "NSR"

    def test_the_same_records_give_the_same_page(self, run: Run, tmp_path: Path) -> None:
        first, second = (write_report_page(run, tmp_path / f"{name}.html").read_bytes() for name in "ab")
        assert first == second

    def test_texts_cannot_leave_their_place(self, tmp_path: Path) -> None:
        words = [HOSTILE, *WORDS[1:]]
        run = write_run(tmp_path / "r", label=HOSTILE, prompts=[HOSTILE, "two"], words=words)
        page = write_report_page(run)
        text = page.read_text("utf-8")
        assert "<img" not in text
        assert text.count("<script") == text.count("</script>") == 3
        header = header_of(page)
        assert HOSTILE in header["prompts"]
        assert header["runs"][0]["label"] == HOSTILE
        assert HOSTILE in header["vocabularies"][0]["texts"]

    def test_fewer_tokens_until_it_is_small_enough(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = write_report_page(run, tmp_path / "whole.html").stat().st_size
        monkeypatch.setattr(page_file, "MOST_BYTES", whole - 500)
        page = write_report_page(run, tmp_path / "small.html", tokens=48)
        assert page.stat().st_size < whole
        assert any("recorded tokens are shown" in sentence for sentence in header_of(page)["left_out"])
        assert MOST_BYTES == 10_000_000

    def test_bad_arguments(self, run: Run, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"tokens: expected 1 or more, got 0"):
            write_report_page(run, tokens=0)
        with pytest.raises(UsageError, match=r"--page: expected a file, got the folder"):
            write_report_page(run, tmp_path)
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match=r"file is a file; choose another path"):
            write_report_page(run, tmp_path / "file" / "page.html")


class TestCommand:
    def test_an_experiment_has_its_page_beside_its_tables(
        self, experiment: Experiment, capsys: pytest.CaptureFixture[str]
    ) -> None:
        page = write_report_page(experiment)
        assert page == experiment.folder / "report.html"
        header = header_of(page)
        assert [run["label"] for run in header["runs"]] == ["PSR", "NSR"]
        assert [chart["key"] for chart in header["charts"]][:2] == ["pass_at_1", "entropy_fixed"]
        assert header["summary"]["verdict"]

    def test_runs_of_two_folders(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folders = [write_run(tmp_path / label, label=label).folder for label in ("PSR", "NSR")]
        monkeypatch.chdir(tmp_path)
        opened: list[str] = []
        monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
        assert main([*map(str, folders), "--open"]) == 0
        assert capsys.readouterr().out.startswith("report   report.html\n")
        assert opened == [(tmp_path / "report.html").as_uri()]
        assert [run["label"] for run in header_of(tmp_path / "report.html")["runs"]] == ["PSR", "NSR"]

    def test_no_browser(self, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        from analysis.report.__main__ import _open

        monkeypatch.setattr("webbrowser.open", lambda url: False)
        _open(run.folder / "report.html")
        assert "--open: no browser was found; open" in capsys.readouterr().err

    @pytest.mark.parametrize("engine", ["attach", "trl", "offline"])
    def test_records_of_every_engine(self, tmp_path: Path, engine: str) -> None:
        run = write_run(tmp_path / "r", engine=engine)
        assert header_of(write_report_page(analysis.load_trace(run.folder)))["runs"][0]["engine"] == engine


class TestBadInput:
    def test_a_folder_that_is_not_a_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "notes.txt").touch()
        assert main([str(tmp_path)]) == 2
        assert str(tmp_path) in capsys.readouterr().err
        assert not (tmp_path / "report.html").exists()

    def test_nothing_is_committed(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "r", steps=0, contexts=False, status="running")
        with pytest.raises(UsageError, match=r"nothing is committed in .*; wait for the first commit"):
            write_report_page(run)

    def test_an_unfinished_experiment_shows_what_there_is(self, tmp_path: Path) -> None:
        experiment = make_experiment(tmp_path, statuses={"NSR": "interrupted"})
        header = header_of(write_report_page(experiment))
        assert [run["status"] for run in header["runs"]] == ["complete", "interrupted"]
        notes = header["summary"]["notes"]
        assert any(
            re.match(r"NSR \(seed 0\) is interrupted after \d+ steps and left out of the tables\.", n) for n in notes
        )

    def test_an_unfinished_run_beside_another(self, tmp_path: Path) -> None:
        runs = [write_run(tmp_path / s, label=s, engine="attach", status=s) for s in ("complete", "running")]
        notes = page_data(runs, 1000).header["summary"]["notes"]
        assert "running (seed 0) is running after 3 steps; what is committed is shown." in notes

    def test_no_tokens_but_followed_contexts(self, tmp_path: Path) -> None:
        data = page_data(write_run(tmp_path / "r", tokens=False), 1000)
        columns = columns_of(data)
        assert (columns["token.flow"] >= 0).all()
        assert len(columns["token.flow"]) == 3 * (4 + 2)  # a token of each response, and the panel
        assert columns["token.weight"][columns["rollout.panel"][columns["token.row"]] == 0].tolist() != []
        assert data.header["runs"][0]["weights"] == "measured"

    def test_different_versions_are_noted(self, tmp_path: Path) -> None:
        runs = [write_run(tmp_path / v, label=v, versions={"torch": v}) for v in ("2.8", "2.9")]
        assert "different versions" in " ".join(page_data(runs, 100).header["notes"])
        assert "different versions" not in " ".join(page_data(runs[:1], 100).header["notes"])

    def test_responses_of_100k_tokens(self, tmp_path: Path) -> None:
        run = write_run(
            tmp_path / "r", steps=1, prompts=["one"], length=4_010, unrecorded=95_990, contexts=False, tokens=True
        )
        data = page_data(run, 60_000)
        columns = columns_of(data)
        assert columns["rollout.length"].tolist() == [100_000, 100_000]
        assert np.diff(columns["rollout.ids.start"]).tolist() == [4_000, 4_000]
        assert columns["token.position"].max() == 3_999
        assert "NSR: 20 tokens beyond position 4,000 of their response are left out." in data.header["left_out"]

    def test_bytes_of_a_character(self, tmp_path: Path) -> None:
        from tokenizers import Tokenizer, decoders, models

        run = write_run(tmp_path / "r")
        alphabet = [
            "\u00e6",
            "\u0139",
            "\u00a5",
            *(f"w{i}" for i in range(3, 24)),
        ]  # the bytes of 日, as GPT-2 writes them
        tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(alphabet)}, merges=[]))
        tokenizer.decoder = decoders.ByteLevel()
        (run.folder / TOKENIZER_FILE).write_text(tokenizer.to_str(), encoding="utf-8")
        vocabulary = page_data(run, 1000).header["vocabularies"][0]
        texts = dict(zip(vocabulary["ids"], vocabulary["texts"], strict=True))
        assert [texts[i] for i in (0, 1, 2, 3)] == ["‹E6›", "‹97›", "‹A5›", "w3"]

    def test_two_tokenizers_have_two_vocabularies(self, tmp_path: Path) -> None:
        runs = [
            write_run(tmp_path / "a", label="PSR"),
            write_run(tmp_path / "b", label="NSR", words=[f"x{i}" for i in range(24)]),
            write_run(tmp_path / "c", label="GRPO"),
        ]
        header = page_data(runs, 1000).header
        assert [run["vocabulary"] for run in header["runs"]] == [0, 1, 0]


class TestVerdicts:
    def test_those_of_the_folder_are_shown(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "r")
        entries = [
            {"id": "G1", "reason": "The interval is above 0.", "missing": ""},
            {"id": "G2", "reason": "One seed.", "missing": "three seeds"},
        ]
        rows = [
            {"claim": "G1", "in_short": "NSR keeps entropy", "verdict": "holds", "value": "1"},
            {"claim": "G2", "in_short": "PSR sharpens", "verdict": "undecided", "value": "–"},
        ]
        (run.folder / "claims.json").write_text(json.dumps({"rows": rows, "entries": entries}))
        assert page_data(run, 100).header["claims"] == [
            ["G1", "NSR keeps entropy", "holds", "The interval is above 0."],
            ["G2", "PSR sharpens", "undecided", "One seed. What was missing: three seeds."],
        ]

    @pytest.mark.parametrize("text", ["{}", "[1]", "nonsense", '{"entries": [{"id": "G1"}], "rows": []}'])
    def test_another_file_is_named(self, tmp_path: Path, text: str) -> None:
        run = write_run(tmp_path / "r")
        (run.folder / "claims.json").write_text(text)
        header = page_data(run, 100).header
        assert header["claims"] == []
        assert any(note.startswith("The verdicts in claims.json are not shown") for note in header["notes"])


@pytest.mark.slow
def test_the_main_command_writes_a_page_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = make_experiment(tmp_path)
    page = StoredReport(experiment).write_report_page()
    written = page.stat().st_mtime_ns
    assert StoredReport(experiment).write_report_page().stat().st_mtime_ns == written
    (experiment.folder / "claims.json").write_text("{}")
    assert StoredReport(experiment).write_report_page().stat().st_mtime_ns != written
    page.unlink()
    assert StoredReport(experiment).write_report_page().exists()
