from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import analysis.report
from analysis import __version__, trace
from analysis.experiments import experiment, many_runs
from analysis.recipes import Recipe
from toy_models import BASES

REPOSITORY = Path(__file__).parents[1]


class FakeSummary:
    def __init__(self, runs: list[str]) -> None:
        self.runs = runs

    def render(self, console: Any) -> None:
        console.print(f"table of {len(self.runs)} runs")

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.runs}


class FakeReport:
    def __init__(self, experiment: Any) -> None:
        self.folder, self.runs = experiment.folder, list(experiment.runs)

    def summary(self) -> FakeSummary:
        return FakeSummary(self.runs)

    def figures(self, *, each_run: bool, tell: Any) -> list[Path]:
        tell("drawing figures …")
        folders = [self.folder, *([self.folder / run for run in self.runs] if each_run else [])]
        return [folder / "figures" / "a.png" for folder in folders]

    def write_page(self) -> Path:
        return self.folder / "summary.md"

    def write_report_page(self) -> Path:
        return self.folder / "report.html"


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace training, base and report: `train("failing")` chooses how runs go."""
    monkeypatch.syspath_prepend(REPOSITORY)
    monkeypatch.setattr(many_runs, "ensure_base", lambda *_, **__: None)
    report = vars(analysis.report)  # not setattr, which would load the plotting libraries to look at the old value
    monkeypatch.setitem(report, "StoredReport", FakeReport)
    whole = experiment.run

    def choose(name: str) -> None:
        monkeypatch.setattr(
            experiment, "run", functools.partial(whole, train=f"tests.experiments.fake_training:{name}")
        )

    choose("complete")
    return choose


def command(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    what = ["-c", code] if code else ["-m", "analysis.trace"]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    line = [sys.executable, *what, *arguments]
    return subprocess.run(line, capture_output=True, text=True, env=environment, check=False)


class TestRun:
    def test_shows_tables_and_figures(self, train: Any, capsys: pytest.CaptureFixture[str]) -> None:
        assert trace.main(["--run", "tiny", "--quiet"]) == 0
        folder = experiment.default_folder(Recipe.load("tiny"))
        out, err = capsys.readouterr()
        page = f"page     {folder}/summary.md\n"
        first = f"report   {folder}/report.html\n\ntable of 2 runs\n\n"
        assert out == f"{first}records  {folder}\nfigures  {folder}/figures (1)\n{page}"
        assert err == ""

    def test_which_figures(self, train: Any, capsys: pytest.CaptureFixture[str]) -> None:
        assert trace.main(["--run", "tiny", "--quiet", "--out", "x", "--no-figures"]) == 0
        assert capsys.readouterr().out == (
            "report   x/report.html\n\ntable of 2 runs\n\nrecords  x\npage     x/summary.md\n"
        )
        assert trace.main(["--run", "tiny", "--out", "x", "--each-run"]) == 0
        out, err = capsys.readouterr()
        assert "figures  x/figures (1)\nfigures  x/psr-seed0/figures (1)\nfigures  x/nsr-seed0/figures (1)\n" in out
        assert err == "drawing figures …\n"

    def test_progress_goes_to_stderr(self, train: Any, capsys: pytest.CaptureFixture[str]) -> None:
        assert trace.main(["--run", "tiny"]) == 0
        out, err = capsys.readouterr()
        assert "PSR  complete" in err
        assert "PSR  complete" not in out

    def test_complete_experiment_again(self, train: Any, capsys: pytest.CaptureFixture[str]) -> None:
        trace.main(["--run", "tiny", "--quiet"])
        first = capsys.readouterr().out
        train("failing")
        assert trace.main(["--run", "tiny", "--quiet"]) == 0
        assert capsys.readouterr().out == first

    def test_json(self, train: Any, capsys: pytest.CaptureFixture[str]) -> None:
        assert trace.main(["--run", "tiny", "--json", "--quiet", "--out", "x"]) == 0
        assert json.loads(capsys.readouterr().out) == {
            "folder": "x",
            "status": "complete",
            "runs": {"psr-seed0": "complete", "nsr-seed0": "complete"},
            "figures": ["x/figures/a.png"],
            "page": "x/summary.md",
            "report": "x/report.html",
            "summary": {"rows": ["psr-seed0", "nsr-seed0"]},
        }

    def test_settings(self, train: Any) -> None:
        arguments = ["--run", "tiny", "--quiet", "--out", "x", "--seed", "7", "--set", "steps=2", "--set", "threads=2"]
        assert trace.main([*arguments, "--device", "cpu", "--workers", "2"]) == 0
        recipe = Recipe.load("tiny").set(seed=7, steps=2, threads=2, device="cpu")
        assert experiment.folder_state(Path("x"), recipe) == "complete"

    def test_own_recipe(self, train: Any, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text("schema = 1\nsteps = 2\n")
        assert trace.main(["--run", "mine.toml", "--quiet"]) == 0
        assert len(list(Path("runs").glob("mine-*/reinforce-seed0/run.json"))) == 1

    def test_failed_run(self, train: Any, capsys: pytest.CaptureFixture[str]) -> None:
        train("failing")
        assert trace.main(["--run", "tiny", "--quiet", "--out", "x"]) == 1
        out, err = capsys.readouterr()
        assert err == (
            "psr-seed0 failed: no luck (more in x/psr-seed0/error.txt)\nfix the cause, then resume with\n"
            "  python -m analysis.trace --resume x\n"
        )
        assert "table of" in out

    def test_diverged_run(self, train: Any, capsys: pytest.CaptureFixture[str]) -> None:
        train("diverging")
        for _ in range(2):  # once as it happens, once as it is found
            assert trace.main(["--run", "tiny", "--quiet"]) == 1
            out, err = capsys.readouterr()
            assert err == "psr-seed0 diverged: non-finite loss\n"
            assert "table of 2 runs" in out

    def test_a_fault_of_ours_is_one_line(
        self, train: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(FakeReport, "summary", lambda _: 1 / 0)
        assert trace.main(["--run", "tiny", "--quiet", "--out", "x"]) == 1
        assert capsys.readouterr().err == "error: ZeroDivisionError: division by zero (traceback: x/error.txt)\n"
        assert "1 / 0" in Path("x/error.txt").read_text()


class TestResume:
    @pytest.fixture
    def folder(self, train: Any, capsys: pytest.CaptureFixture[str]) -> Path:
        """An experiment that was interrupted."""
        train("failing")
        trace.main(["--run", "tiny", "--quiet"])
        train("complete")
        capsys.readouterr()
        return experiment.default_folder(Recipe.load("tiny"))

    def test_unfinished_needs_it(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert trace.main(["--run", "tiny", "--quiet"]) == 2
        assert f"resume it with\n  python -m analysis.trace --resume {folder}\n" in capsys.readouterr().err

    @pytest.mark.parametrize("how", ["folder", "alone", "with run", "with run and folder", "with out"])
    def test_goes_on(self, folder: Path, how: str) -> None:
        arguments = {
            "folder": ["--resume", str(folder)],
            "alone": ["--resume"],
            "with run": ["--run", "tiny", "--resume"],
            "with run and folder": ["--run", "tiny", "--resume", str(folder)],
            "with out": ["--resume", "--out", str(folder)],
        }[how]
        assert trace.main([*arguments, "--quiet"]) == 0
        assert experiment.folder_state(folder, Recipe.load("tiny")) == "complete"

    def test_with_run_starts_where_there_is_nothing(self, train: Any) -> None:
        assert trace.main(["--run", "tiny", "--resume", "--quiet"]) == 0

    def test_alone_takes_the_latest_unfinished(self, folder: Path, train: Any) -> None:
        train("failing")
        trace.main(["--run", "tiny", "--quiet", "--seed", "3"])
        train("complete")
        for path in Path("runs").iterdir():
            info = json.loads((path / "experiment.json").read_text())
            info["created"] = "2030" if path == folder else "2020"
            (path / "experiment.json").write_text(json.dumps(info))
        assert trace.main(["--resume", "--quiet"]) == 0
        assert experiment.folder_state(folder, Recipe.load("tiny")) == "complete"
        assert (
            experiment.folder_state(
                experiment.default_folder(Recipe.load("tiny").set(seed=3)), Recipe.load("tiny").set(seed=3)
            )
            == "unfinished"
        )

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--resume"], "--resume: no unfinished experiment in runs/"),
            (["--resume", "nowhere"], "expected an experiment folder, got a folder without nowhere/experiment.json"),
            (["--resume", "a", "--out", "b"], "--out b with --resume a: give one of them"),
            (["--resume", "a", "--seed", "3"], "--set, --seed, --device with --resume: an experiment is resumed with"),
            (["--resume", "a", "--set", "steps=3"], "--set, --seed, --device with --resume"),
        ],
    )
    def test_refused(self, train: Any, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert trace.main(arguments) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")

    def test_recipe_that_means_something_else_now(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        info = json.loads((folder / "experiment.json").read_text())
        (folder / "experiment.json").write_text(json.dumps(info | {"hash": "0" * 64}))
        assert trace.main(["--resume", str(folder)]) == 2
        assert "means something else in this version of the library" in capsys.readouterr().err


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "nothing to do: expected --run [RECIPE], --resume [DIR] or --list"),
            (["--run", "tinny"], "recipe 'tinny': expected a built-in recipe"),
            (["--run", "tiny", "--set", "update.epoch=3"], "recipe tiny: update.epoch: unknown field (did you mean"),
            (["--run", "tiny", "--set", "steps"], "--set: expected field=value, got 'steps'"),
            (["--run", "tiny", "--seed", "one"], 'recipe tiny: seed: expected an integer ≥ 0, got "one"'),
            (["--run", "tiny", "--device", "tpu"], "recipe tiny: device: expected auto, cpu, cuda or cuda:N"),
            (["--run", "tiny", "--workers", "0"], "workers: expected an integer ≥ 1, got 0"),
        ],
    )
    def test_one_message(
        self, train: Any, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert trace.main(arguments) == 2
        out, err = capsys.readouterr()
        assert err.startswith(f"error: {message}")
        assert out == ""

    def test_unknown_option(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            trace.main(["--rum"])
        assert "python -m analysis.trace: error: unrecognized arguments: --rum" in capsys.readouterr().err

    @pytest.mark.parametrize("word", ["tiny", "mine.toml"])
    def test_a_recipe_without_its_option(self, word: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            trace.main([word])
        assert f"unrecognized arguments: {word}; did you mean --run {word}?" in capsys.readouterr().err

    def test_a_device_that_is_not_there(self, train: Any, capsys: pytest.CaptureFixture[str]) -> None:
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
        for more in ([], ["--dry-run"]):
            assert trace.main(["--run", "tiny", "--device", "cuda", *more]) == 2
            assert capsys.readouterr().err.startswith("error: device: expected an available device, got cuda")
        assert not Path("runs").exists()

    def test_interrupt(self, train: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        def stop(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt("stopped; resume with\n  this")

        monkeypatch.setattr(experiment, "run", stop)
        assert trace.main(["--run", "tiny"]) == 130
        assert capsys.readouterr().err == "stopped; resume with\n  this\n"


class TestWithoutRunning:
    def test_list(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert trace.main(["--list"]) == 0
        text = capsys.readouterr().out
        for recipe in map(Recipe.load, Recipe.names()):
            assert f"{recipe.name}\n  {recipe.about}\n  {len(recipe.expand())} runs; {recipe.cost}\n" in text
        assert all(base in text for base in BASES)

    def test_list_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        trace.main(["--list", "--json"])
        assert {one["name"] for one in json.loads(capsys.readouterr().out)} == set(Recipe.names())

    def test_dry_run(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("RLVR_DYNAMICS_CACHE", str(tmp_path / "cache"))
        assert trace.main(["--run", "--dry-run", "--set", "steps=3"]) == 0
        recipe = Recipe.load("default").set(steps=3)
        text = capsys.readouterr().out
        assert f"folder  {experiment.default_folder(recipe)} (absent)\n" in text
        assert "base    path (not cached: it is pretrained first)\n" in text
        assert 'run     psr-seed0  objective.name="psr"' in text
        assert "steps = 3\n" in text
        assert list(tmp_path.iterdir()) == []

    def test_dry_run_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        trace.main(["--run", "tiny", "--dry-run", "--json"])
        shown = json.loads(capsys.readouterr().out)
        assert shown["hash"] == Recipe.load("tiny").hash
        assert [one["config"]["objective"]["name"] for one in shown["runs"]] == ["psr", "nsr"]

    def test_help_and_version(self) -> None:
        shown = command("--help")
        assert shown.returncode == 0
        assert shown.stdout.startswith("usage: python -m analysis.trace ")
        for part in ("examples:", "what is written:", "exit status:", "--dry-run", "130"):
            assert part in shown.stdout
        assert max(map(len, shown.stdout.splitlines())) <= 120
        assert command("--version").stdout == f"rlvr-dynamics {__version__}\n"

    @pytest.mark.parametrize(
        ("arguments", "status"),
        [
            ("--help", 0),
            ("--list", 0),
            ("--run tinny", 2),
            ("--run tiny --set a=1", 2),
            ("--run tiny --dry-run", 0),
            ("--run tiny --out full", 2),
            ("--resume nowhere", 2),
        ],
    )
    def test_answers_load_no_torch(self, tmp_path: Path, arguments: str, status: int) -> None:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.tex").touch()
        code = (
            "import sys; from analysis.trace import main\n"
            "try: status = main(sys.argv[1:])\n"
            "except SystemExit as end: status = end.code\n"
            "heavy = {'torch', 'transformers', 'pandas', 'pyarrow'} & sys.modules.keys()\n"
            # The number of a task's prompts stands in its module, which draws pretraining text with numpy (0.1 s).
            "heavy |= {'numpy'} & sys.modules.keys() - ({'numpy'} if 'tiny' in sys.argv else set())\n"
            "sys.exit(99 if heavy else status)"
        )
        done = command(*arguments.split(), code=code)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr

    def test_broken_pipe(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        line = [sys.executable, "-m", "analysis.trace", "--list"]
        done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, check=False)
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, "")
