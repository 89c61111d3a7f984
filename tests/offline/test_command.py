"""`python -m analysis.trace --model … --rollouts …`: what it prints, its exit status, and going on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis import load_trace, trace
from analysis.records import Run, digest
from tests.offline.small import make_tokenizer, rows_of, save, write_jsonl
from tests.report.test_page import header_of

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "tiny-model", tokenizer=make_tokenizer(template=True))


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "rollouts.jsonl", rows_of(24))


def line(model: Path, rollouts: Path, out: Path, *options: str) -> list[str]:
    return ["--model", str(model), "--rollouts", str(rollouts), "--out", str(out), "--quiet", *options]


@pytest.mark.slow
def test_tables_figures_and_page(model: Path, rollouts: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    options = ["--objective", "nsr-log", "--objective", "grpo,form=log"]
    assert trace.main(line(model, rollouts, out, *options)) == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    assert "where the tokens sit" in printed
    assert f"records  {out}" in printed
    assert printed.endswith(f"records  {out}\nfigures  {out}/figures (5)\npage     {out}/summary.md\n")
    for name in ("boundaries", "positions", "rank_flow", "gradient_tokens"):
        assert (out / "figures" / f"{name}.png").stat().st_size > 10_000
    assert printed.startswith(f"report   {out}/report.html\n\n")
    header = header_of(out / "report.html")
    (described,) = header["runs"]
    assert (described["engine"], described["weights"]) == ("offline", "nsr-log")
    assert header["left_out"] == [
        "tiny-model: weights are those of nsr-log; those of grpo,form=log are in the tables alone."
    ]
    page = (out / "summary.md").read_text()
    assert page.startswith("# tiny-model\n")
    assert "### nsr-log: tokens that carry the negative gradient" in page
    assert "![boundaries](figures/boundaries.png)" in page
    run = load_trace(out)
    assert run.info["trace"]["objectives"] == ["nsr-log", "grpo,form=log"]
    assert run.info["label"] == "tiny-model"


@pytest.mark.slow
def test_json_and_a_complete_trace_again_with_other_objectives(
    model: Path, rollouts: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    assert trace.main(line(model, rollouts, out, "--json")) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["status"], first["rollouts"], first["skipped"]) == ("complete", 24, {})
    assert first["tokens"] == load_trace(out).rows("tokens")
    assert "No objective was named" in first["summary"]["notes"][0]
    before = digest(out)
    assert trace.main(line(model, rollouts, out, "--json", "--objective", "psr-log")) == 0
    second = json.loads(capsys.readouterr().out)
    assert any("psr-log" in table["title"] for table in second["summary"]["tables"])
    assert digest(out) == before


@pytest.mark.slow
def test_template_eos_temperature_threshold_and_columns_reach_the_trace(
    model: Path, tmp_path: Path, capsys: Any
) -> None:
    rows = [{"q": [{"role": "user", "content": "1 + 2"}], "a": "3", "score": s, "gts": "3"} for s in (2.0, -1.0)]
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    options = [
        "--columns",
        "prompt=q,response=a",
        "--chat-template",
        "--eos",
        "--temperature",
        "0.5",
        "--threshold",
        "0",
        "--on-policy",
        "--top-k",
        "3",
        "--dtype",
        "float64",
        "--device",
        "cpu",
        "--batch-tokens",
        "10",
    ]
    assert trace.main(line(model, file, tmp_path / "b", *options, "--objective", "psr-ratio")) == 0
    run = load_trace(tmp_path / "b")
    assert run.table("prompts")["text"].tolist() == ["user 1 + 2 assistant :"]
    assert run.table("rollouts")["length"].tolist() == [2, 2]
    assert run.table("rollouts")["reward"].tolist() == [1.0, 0.0]
    tokens = run.table("tokens")
    assert (tokens["ratio"] == 1).all()
    assert tokens["top_ids"].map(len).tolist() == [3] * 4
    assert (run.info["temperature"], run.info["dtype"]) == (0.5, "float64")
    options = ["--columns", "prompt=q,response=a", "--chat-template", "--verifier", "exact", "--answers", "gts"]
    assert trace.main(line(model, file, tmp_path / "c", *options)) == 0
    assert load_trace(tmp_path / "c").table("rollouts")["verdict"].tolist() == ["correct", "correct"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": None}, "--model: expected with --model DIR --rollouts FILE --out DIR"),
        ({"--rollouts": None}, "--rollouts: expected with --model DIR"),
        ({"--out": None}, "--out: expected with --model DIR"),
        ({"--model": "nowhere"}, "--model = 'nowhere': expected a built-in base, a folder"),
        ({"--model": "Qwen/Qwen3-0.6B"}, "run this where there is a network: hf download Qwen/Qwen3-0.6B"),
        ({"--rollouts": "nowhere.jsonl"}, "nowhere.jsonl cannot be read: No such file"),
        ({"--seed": "1"}, "--seed with --rollouts: recorded rollouts are traced, not trained on"),
        ({"--run": "tiny"}, "--run with --rollouts"),
        ({"--set": "steps=1"}, "--set with --rollouts"),
        ({"--answers": "gts"}, "--answers: only a verifier reads them"),
        ({"--resume": "elsewhere"}, "give --resume alone"),
        ({"--device": "cuda"}, "device: expected an available device, got cuda"),
        ({"--objective": "nsr"}, "objective.form: nsr needs a form"),
        ({"--objective": "nsr-log,lambda"}, "expected NAME,PARAMETER=VALUE"),
        (
            {"--objective": "nsr-ratio"},
            "nsr-ratio needs old log-probs, and rollouts.jsonl has no column for them; map one",
        ),
    ],
)
def test_requests_that_cannot_be_met(
    model: Path, rollouts: Path, tmp_path: Path, capsys: Any, change: dict[str, str | None], message: str
) -> None:
    import torch

    if "--device" in change and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    options = {"--model": str(model), "--rollouts": str(rollouts), "--out": str(tmp_path / "out")} | change
    arguments = [part for name, value in options.items() if value is not None for part in (name, value)]
    assert trace.main([*arguments, "--quiet"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective", "nsr_log"], "did you mean nsr-log"),
        (["--objective", "kl"], "kl"),
        (["--temperature", "0"], "temperature: expected a positive number, got 0"),
        (["--top-k", "-4"], "top_k: expected a number of tokens, 0 for none, got -4"),
        (["--batch-tokens", "0"], "batch_tokens: expected at least 1, got 0"),
        (["--threshold", "nan"], "threshold: expected a finite number, got nan"),
        (["--workers", "0"], "workers: expected at least 1, got 0"),
        (["--verifier", "maths", "--columns", "answer=reward"], "verifier"),
        (["--out", "rollouts.jsonl"], "out: expected a folder, got the file rollouts.jsonl"),
    ],
)
def test_options_are_refused_before_a_model_is_loaded(
    rollouts: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(rollouts.parent)
    monkeypatch.setattr("toy_models.load_policy", lambda *_, **__: pytest.fail("a model was loaded"))
    assert trace.main(line(Path("model"), rollouts, Path("out"), *options)) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


def test_the_file_is_read_and_the_head_is_found_once(
    model: Path, rollouts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from analysis.offline import options, reading, tracing

    counts = {"read": 0, "head": 0}
    each_row, find_head = reading.each_row, tracing.find_head

    def count(what: str, function: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            counts[what] += 1
            return function(*arguments)

        return counted

    monkeypatch.setattr(reading, "each_row", count("read", each_row))
    monkeypatch.setattr(tracing, "find_head", count("head", find_head))
    assert options.read_rollouts is reading.read_rollouts
    assert trace.main(line(model, rollouts, tmp_path / "out")) == 0
    assert counts == {"read": 1, "head": 1}


@pytest.mark.slow
def test_unfinished_complete_and_forced(model: Path, rollouts: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert trace.main(line(model, rollouts, out)) == 0
    text = (out / "run.json").read_text()
    (out / "run.json").write_text(text.replace('"status": "complete"', '"status": "interrupted"'))
    assert trace.main(line(model, rollouts, out)) == 2
    assert "resume it with resume (--resume)" in capsys.readouterr().err
    assert trace.main(line(model, rollouts, out, "--resume")) == 0
    assert trace.main(line(model, rollouts, out, "--temperature", "2")) == 2
    assert trace.main(line(model, rollouts, out, "--temperature", "2", "--force")) == 0
    assert trace.main(["--resume", str(out)]) == 2
    assert "holds a trace of recorded rollouts; give its --model and --rollouts again" in capsys.readouterr().err


def test_files_are_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"x": 1}])
    code = (
        "import sys; from analysis import trace\n"
        f"assert trace.main(['--model', 'm', '--rollouts', {str(file)!r}, '--out', 'o']) == 2\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "has no column for the prompt" in done.stderr


SIGNALLED = """
import itertools, os, sys
from analysis import trace
from analysis.offline import rounds, tracing

class Writer(tracing.RunWriter):
    commits = itertools.count(1)

    def commit(self, *arguments):
        super().commit(*arguments)
        if next(self.commits) == 3 and (number := int(sys.argv[1])):
            os.kill(os.getpid(), number)

tracing.RunWriter, rounds._COMMIT_SECONDS = Writer, 0.0
sys.exit(trace.main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed_gives_the_same_records(model: Path, tmp_path: Path, how: signal.Signals) -> None:
    rollouts = write_jsonl(tmp_path / "rollouts.jsonl", rows_of(60))

    def run(out: Path, signal_number: int, *options: str) -> subprocess.CompletedProcess[str]:
        """Trace in a process of its own, which sends itself the signal after its third commit; 0 is none."""
        command = [sys.executable, "-c", SIGNALLED, str(int(signal_number))]
        command += line(model, rollouts, out, "--batch-tokens", "20", *options)
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert run(tmp_path / "whole", 0).returncode == 0
    part = run(tmp_path / "part", how)
    assert part.returncode == (-9 if how == signal.SIGKILL else 130)
    assert how == signal.SIGKILL or "resume with the same command and --resume" in part.stderr
    traced = load_trace(tmp_path / "part", verify=True)
    assert isinstance(traced, Run)
    assert 0 < traced.rows("rollouts") < 60
    assert traced.status == ("running" if how == signal.SIGKILL else "interrupted")
    assert run(tmp_path / "part", 0, "--resume").returncode == 0
    assert digest(tmp_path / "part") == digest(tmp_path / "whole")


def test_options_of_chat_templates(tmp_path: Path, capsys: Any) -> None:
    """A template by its name, variables of it, and an assistant's message that is complete."""
    from tests.offline.byte_models import byte_tokenizer, small_model

    short = (
        "{{ messages[0].content }}{% if thinking %}<think>{% endif %}{% if add_generation_prompt %}<turn>{% endif %}"
    )
    tokenizer = byte_tokenizer({"default": "<turn>{{ messages[0].content }}", "short": short})
    base = save(tmp_path / "base", small_model(len(tokenizer)), tokenizer)
    prompt = [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "x"}]
    rows = write_jsonl(tmp_path / "a.jsonl", [{"prompt": prompt, "response": "2", "reward": 1.0}])
    options = ["--chat-template", "short", "--new-turn", "--template-arguments", '{"thinking": true}', "--json"]
    assert trace.main([*line(base, rows, tmp_path / "out", *options), "--no-figures"]) == 0
    assert load_trace(tmp_path / "out").table("prompts")["text"].tolist() == ["1+1=<think><turn>"]
    capsys.readouterr()
    for wrong, message in (
        (["--chat-template", "long"], "expected 'long', got a tokenizer with the templates default, short"),
        (["--template-arguments", "thinking"], "--template-arguments: expected a JSON object such as"),
        (["--new-turn"], "new_turn: only a chat template reads it"),
    ):
        assert trace.main(line(base, rows, tmp_path / "other", *wrong)) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow  # draws figures
def test_fewer_columns_and_tokens_have_a_summary(model: Path, rollouts: Path, tmp_path: Path) -> None:
    options = ["--record-columns", "core", "--record-tokens", "0.5"]
    assert trace.main(line(model, rollouts, tmp_path / "out", *options)) == 0
    run = load_trace(tmp_path / "out")
    assert isinstance(run, Run)
    assert run.info["record"] == {"tokens": 0.5, "columns": "core", "top_k": 0}
    assert 0 < run.table("tokens")["rollout"].nunique() < run.rows("rollouts")
    assert "phase plane" in (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
