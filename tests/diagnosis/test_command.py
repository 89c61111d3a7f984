"""`python -m analysis.diagnose`: what it prints, its exit status, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from analysis.diagnose import main
from analysis.diagnosis import CHECKS, diagnose
from analysis.errors import UsageError
from analysis.records import RunWriter
from tests.diagnosis.planted import planted_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_run(tmp_path_factory.mktemp("runs") / "clipped", "clip").folder


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_run(tmp_path_factory.mktemp("runs") / "healthy").folder


def _rollouts(path: Path, rewards: list[float]) -> Path:
    rows = [{"prompt": f"q{i // 4}", "response": f"a{i}", "reward": reward} for i, reward in enumerate(rewards)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_table_has_the_worst_first_and_every_sentence_its_page(
    clipped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")  # a narrow terminal gets the table of tokens on its side
    assert main([str(clipped)]) == 0
    shown = capsys.readouterr().out
    table = [line.split()[:2] for line in shown.splitlines() if re.search(r" (alarm|notice|fine) ", line)]
    assert table[0] == ["clip", "alarm"]
    assert "Tokens that carried most of the update" in shown
    assert len(re.findall(r"\d+/\d+/\d+", " ".join(shown.split()))) == 10
    text = " ".join(shown.split())
    assert "alarm clip: The clip took the weight of" in text
    assert "(docs/how_to/diagnose.md#clip)" in text


def test_json_has_every_finding(clipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(clipped), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["source"] == str(clipped)
    assert [finding["name"] for finding in said["findings"]] == list(CHECKS)
    clip = next(finding for finding in said["findings"] if finding["name"] == "clip")
    assert clip["severity"] == "alarm"
    assert clip["value"] == pytest.approx(clip["details"]["neg"]["below"])


@pytest.mark.parametrize(
    ("condition", "status"),
    [("alarm", 1), ("notice", 1), ("clip", 1), ("verifier,clip", 1), ("verifier", 0), ("verifier,truncation", 0)],
)
def test_exit_status_of_fail_on(condition: str, status: int, clipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(clipped), "--fail-on", condition]) == status
    said = capsys.readouterr().err
    assert said == ("" if status == 0 else f"--fail-on {condition}: clip (alarm) in {clipped}\n")


def test_a_healthy_run_passes(healthy: Path) -> None:
    assert main([str(healthy), "--fail-on", "notice"]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fail-on", "clips"], "expected notice, alarm or names of findings, got 'clips'; did you mean clip?"),
        (["--fail-on", "reward-drops"], "did you mean reward-drop or"),
        (["--fail-on", " ,"], "--fail-on: expected notice, alarm or names of findings, got nothing"),
        (["--objective", "grpoo"], "grpoo"),
        (["--columns", "prompt=question"], "columns: expected none for the recorded run"),
        (["--columns", "prompt"], "expected ROLE=NAME"),
    ],
)
def test_what_is_asked_wrongly_is_refused(
    arguments: list[str], said: str, healthy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(healthy), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_named_finding_that_is_not_recorded_does_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _rollouts(tmp_path / "rollouts.jsonl", [float(i % 4 == 0) for i in range(64)])
    assert main([str(path), "--fail-on", "verifier,alarm"]) == 0
    assert main([str(path), "--fail-on", "clip"]) == 2
    assert "got clip: Not recorded: no clips" in capsys.readouterr().err


def test_a_file_of_rollouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _rollouts(tmp_path / "rollouts.jsonl", [0.0] * 64)
    assert main([str(path), "--fail-on", "verifier"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "The verifier rewarded no response of 64" in shown
    assert "normaliser: Not recorded: no measured weights." in shown
    assert main([str(path), "--objective", "grpo"]) == 2
    assert "expected a recorded run, whose tokens have probabilities, got bare rollouts" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nothing", "empty", "run"])
def test_what_is_not_a_run_or_rollouts_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if name == "empty":
        path.mkdir()
    elif name == "run":  # nothing is committed yet
        fields = dict.fromkeys(("recipe", "hash", "seed")) | {"run_id": "a", "label": "A", "engine": "attach"}
        RunWriter(path, run_json=fields | {"temperature": 1.0})
    assert main([str(path)]) == 2
    assert re.search("does not exist|No such file|is empty|none are committed", capsys.readouterr().err)


def test_an_experiment_is_told_to_choose_a_run(tmp_path: Path) -> None:
    from tests.report.by_hand import make_experiment

    experiment = make_experiment(tmp_path)
    with pytest.raises(UsageError, match=r"expected one run, got the experiment .* with psr-seed0, nsr-seed0"):
        diagnose(experiment.folder)


def test_each_run_of_an_experiment_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.report.by_hand import make_experiment

    experiment = make_experiment(tmp_path)
    assert main([str(experiment.folder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [Path(one["source"]).name for one in said] == list(experiment.runs)


def test_every_finding_has_its_section() -> None:
    page = (ROOT / "docs/how_to/diagnose.md").read_text(encoding="utf-8")
    sections = re.findall(r"^### (\S+)$", page, flags=re.MULTILINE)
    assert sorted(sections) == sorted(CHECKS)


def test_text_of_the_model_is_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "[red]\x1b[31m", "response": f"<b>{i}", "reward": float(i % 2)} for i in range(40)]
    path = tmp_path / "[bold]rollouts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main([str(path)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "[bold]" in shown
    assert "<script>" not in diagnose([row | {"prompt": "<script>"} for row in rows])._repr_html_()
