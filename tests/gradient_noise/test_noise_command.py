"""The command: measurements, what it writes and reads back, the alarm, and what it refuses."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pandas as pd
import pytest

from analysis.noise import _QUANTITIES, _interval, main

QUICK = ["--base", "tiny", "--prompts", "4", "--group-size", "4", "--replicates", "3", "--quiet"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    path = tmp_path_factory.mktemp("noise") / "deep" / "noise.parquet"
    assert main([*QUICK, "--out", str(path)]) == 0
    return path


def test_help_loads_no_torch():
    code = (
        "import sys; from analysis.noise import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "exit status" in out
    assert "noise / signal" in out


@pytest.mark.slow
def test_table_and_file(measured, capsys):
    assert main(["--read", str(measured)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("tiny on path-small: p = 0.")
    assert "3×4×4 rollouts" in out
    for words in ("PSR", "W-REINFORCE", "projection", "signal"):
        assert words in out
    frame = pd.read_parquet(measured)
    assert list(frame.columns[:4]) == ["base", "task", "seed", "estimator"]
    assert list(frame.estimator) == ["PSR", "NSR", "W-REINFORCE", "REINFORCE", "GRPO"]


def noise_rows(replicates: int = 16, **columns: object) -> pd.DataFrame:
    """One policy's measurement, as the file has it."""
    row = {"base": "b", "task": "path", "seed": 0, "estimator": "PSR", "p": 0.5, "gradient_norm": 1.0, "prompts": 4}
    row |= {"group_size": 8, "replicates": replicates, "temperature": 1.0, "expected": 1.0}
    for name, value in {"projection": 1.1, "variance": 50.0, "noise_to_signal": 60.0, "noise_ratio": 2.0}.items():
        row |= {name: value, f"{name}_se": 0.1 * value}
    row |= {"cosine": 1.02, "cosine_se": 0.01}
    row |= {"cosine_batch": 0.97, "cosine_batch_se": 0.03}
    return pd.DataFrame([row | columns])


def test_the_numbers_of_the_table_have_their_intervals_of_95_percent():
    """t(0.975, 15) = 2.131450 standard errors, on the logarithm where a quantity is positive; cosines end at 1."""
    row = noise_rows().iloc[0].to_dict()
    found = {name: _interval(row, name) for name in _QUANTITIES}
    assert (found["projection"].low, found["projection"].high) == pytest.approx((1.1 - 0.2344595, 1.1 + 0.2344595))
    assert found["projection"].kind == "replicate_mean"
    factor = math.exp(0.213145)
    for name, value in (("variance", 50.0), ("noise_to_signal", 60.0), ("noise_ratio", 2.0)):
        assert (found[name].low, found[name].high) == pytest.approx((value / factor, value * factor), rel=1e-6)
        assert found[name].kind == "noise"
    assert found["cosine"].estimate == 1.0
    assert math.isnan(found["cosine"].low)
    assert found["cosine_batch"].low == pytest.approx(0.97 - 0.0639435)
    assert found["cosine_batch"].high == 1.0


@pytest.mark.parametrize(
    ("columns", "name", "reason"),
    [
        ({"replicates": 4}, "projection", "fewer than 5 replicates (4)"),
        ({"replicates": 4}, "variance", "fewer than 5 replicates (4)"),
        ({}, "cosine", "for the cosine of an expectation none was found that covers"),
        ({"noise_to_signal": -3.0}, "noise_to_signal", "what is not positive has no logarithm"),
        ({"noise_to_signal_se": 1e6}, "noise_to_signal", "the replicates do not tell its order of magnitude"),
    ],
)
def test_where_the_table_has_no_interval_it_says_why(columns, name, reason, tmp_path, capsys):
    frame = noise_rows(**columns)
    found = _interval(frame.iloc[0].to_dict(), name)
    assert found.reason == reason
    assert math.isnan(found.low)
    frame.to_parquet(tmp_path / "noise.parquet")
    assert main(["--read", str(tmp_path / "noise.parquet")]) == 0
    assert reason in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_json_is_the_same_measurement_and_settings_reach_it(measured, capsys):
    assert main([*QUICK, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    frame = pd.read_parquet(measured)
    assert [row["variance"] for row in said["measurements"]] == list(frame.variance)
    assert said["measurements"][4]["expected"] is None
    assert said["crossings"] == {}
    changed = ["--temperature", "0.7", "--seed", "3", "--lambda", "0.5", "--split", "test"]
    assert main([*QUICK, *changed, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["measurements"]
    assert rows[2]["expected"] == 1.5
    assert rows[0]["temperature"] == 0.7
    assert rows[0]["seed"] == 3
    assert rows[0]["p"] != frame.p[0]


@pytest.mark.slow
def test_a_run_s_checkpoint_is_measured_like_a_base(measured, tmp_path, capsys):
    from toy_models import load_policy

    load_policy("tiny").save(tmp_path / "final")
    assert main(["--base", str(tmp_path / "final"), "--task", "path-small", *QUICK[2:], "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["measurements"]
    assert [row["variance"] for row in rows] == list(pd.read_parquet(measured).variance)


@pytest.mark.slow
def test_figure_and_crossing_of_several_policies(measured, tmp_path, capsys):
    frame = pd.read_parquet(measured)
    other = frame.assign(base="other", p=frame.p + 0.4, noise_ratio=0.1, noise_ratio_se=0.01)
    other.to_parquet(tmp_path / "other.parquet")
    assert (
        main(
            [
                "--read",
                str(measured),
                "--read",
                str(tmp_path / "other.parquet"),
                "--figure",
                str(tmp_path / "figures" / "noise.png"),
            ]
        )
        == 0
    )
    assert "path-small: the variance of NSR is that of PSR at p = 0." in capsys.readouterr().out
    assert (tmp_path / "figures" / "noise.png").stat().st_size > 10_000


@pytest.mark.slow
def test_patterns_name_built_in_bases(measured, capsys):
    assert main(["--base", "tin[y]", *QUICK, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["measurements"]
    assert [row["base"] for row in rows] == ["tiny"] * 5  # once, though named twice


@pytest.mark.slow
def test_alarm(measured, tmp_path, capsys):
    frame = pd.read_parquet(measured)
    frame.loc[1, ["projection", "projection_se"]] = 1.5, 0.1
    frame.to_parquet(tmp_path / "off.parquet")
    assert main(["--read", str(tmp_path / "off.parquet")]) == 0
    assert "The projection of NSR is more than 4 standard errors off" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to do: expected --base BASE or --read FILE"),
        (["--base", "no*"], "--base no*: expected a pattern that a built-in base matches; known: path, "),
        (["--base", "nope"], "--base nope: base: expected a built-in base"),
        (["--base", "tiny", "--task", "path"], "--task: expected path-small, the task of the base tiny, got path"),
        (["--base", "tiny", "--prompts", "0"], "--prompts: expected at least 1, got 0"),
        ([*QUICK, "--replicates", "2"], "--replicates: expected at least 3, got 2"),
        ([*QUICK, "--group-size", "0"], "--group-size: expected at least 1, got 0"),
        ([*QUICK, "--temperature", "0"], "--temperature: expected a number above 0, got 0"),
        ([*QUICK, "--lambda", "-1"], "--lambda: expected at least 0, got -1"),
        ([*QUICK, "--base-seed", "-1"], "--base-seed: expected at least 0, got -1"),
        ([*QUICK, "--threads", "0"], "--threads: expected at least 1, got 0"),
        ([*QUICK, "--top-p", "0"], "--top-p: expected a number above 0, got 0"),
        ([*QUICK, "--top-p", "2"], "--top-p: expected at most 1, got 2"),
        pytest.param(["--base", "tiny", "--prompts", "129"], "--prompts: expected 1 to 128", marks=pytest.mark.slow),
        (["--read", "nothing.parquet"], "--read: expected a Parquet file that --out wrote, got nothing.parquet"),
        ([*QUICK, "--out", "noise.csv"], "--out: expected a file ending in .parquet"),
        ([*QUICK, "--figure", "noise.jpg"], "--figure: expected a file ending in .png"),
        ([*QUICK, "--figure", "."], "--figure: expected a file, got the folder ."),
        ([*QUICK, "--figure", "/proc/x.png"], "--figure: expected a file that can be written, got /proc/x.png"),
    ],
)
def test_what_is_refused(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_another_parquet_file_is_refused(tmp_path, capsys):
    pd.DataFrame({"task": ["path"]}).to_parquet(tmp_path / "x.parquet")
    assert main(["--read", str(tmp_path / "x.parquet")]) == 2
    assert "columns are missing: base, estimator" in capsys.readouterr().err


@pytest.mark.slow
def test_nothing_to_draw_is_said(measured, tmp_path, capsys):
    pd.read_parquet(measured).assign(noise_ratio=float("nan")).to_parquet(tmp_path / "x.parquet")
    assert main(["--read", str(tmp_path / "x.parquet"), "--figure", str(tmp_path / "x.png")]) == 2
    assert "--figure: no measurement has both" in capsys.readouterr().err
