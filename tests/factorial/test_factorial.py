"""The factorial: cells, matching and shares on numbers worked out by hand, and small runs from end to end."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.errors import UsageError
from analysis.factorial import (
    Cells,
    cell_name,
    factor_shares,
    full_factorial,
    gaps,
    interactions,
    make_problem,
    one_factor_cells,
    run_cells,
)
from analysis.factorial.__main__ import main
from analysis.factorial.attribution import cell_differences
from analysis.factorial.cells import CellRun, _table_settings
from analysis.factorial.factors import factors_of, first_in, last_out, orders
from analysis.factorial.folder import FactorialFolder
from analysis.objectives import user_losses as own
from analysis.tabular.table_optimizer import TableOptimizer
from analysis.tabular.table_training import UpdateCount, _expected_step
from analysis.tabular.toy_policies import toy_policy

SMALL = Cells(seeds=3, prompts=4, arms=10, steps=40, methods=("PSR", "NSR"))


@pytest.mark.parametrize("policy", ["bandit", "tree"])
def test_cells(policy):
    factors = factors_of(policy)
    cells = full_factorial(factors)
    assert len(set(cells)) == len(cells) == 2 ** len(factors) // 2  # of reuse, rate and clip four of eight exist
    assert not any("clip" in cell and "rate" not in cell for cell in cells)
    assert not any("rate" in cell and "reuse" not in cell for cell in cells)
    chosen = one_factor_cells(factors)
    assert set(chosen) <= set(cells)
    for factor in factors:
        for pair in (first_in(factor), last_out(factor, frozenset(f.name for f in factors))):
            assert set(pair) <= set(chosen)
            assert pair[0] - pair[1] == {factor.name}
            assert pair[1] < pair[0]
    assert len(list(orders(factors))) == math.factorial(len(factors)) // 6


def rows_of(value_of, factors, seeds=3):
    rows = [
        {"cell": cell_name(cell), "seed": seed, "matched": value_of(cell, seed)}
        for cell in full_factorial(factors)
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def effect(shares, factor, kind):
    (row,) = [r for _, r in shares.iterrows() if r["factor"] == factor and r["kind"] == kind]
    return row


def test_additive_values_give_their_terms_to_every_measure():
    factors = factors_of("bandit")
    terms = {factor.name: i + 1.0 for i, factor in enumerate(factors)}
    shares = factor_shares(rows_of(lambda cell, seed: sum(terms[f] for f in cell) + seed, factors), factors)
    for name, term in terms.items():
        for kind in ("first in", "last out", "Shapley"):
            row = effect(shares, name, kind)
            assert row["value"] == pytest.approx(term)
            assert row["n"] == 3
            assert row["low"] == pytest.approx(term)  # the seeds' own level cancels
    assert effect(shares, "all", "everything")["value"] == pytest.approx(sum(terms.values()))
    pairs = interactions(rows_of(lambda cell, seed: sum(terms[f] for f in cell), factors), factors)
    assert pairs["value"].abs().max() < 1e-12
    assert len(pairs) == 18  # of 21; reuse, rate and clip have none among themselves


def test_a_product_is_shared_and_shows_as_an_interaction():
    """v = 1 where noise and optimizer are both on: nothing first in, all of it last out, half each by Shapley."""
    factors = factors_of("bandit")
    table = rows_of(lambda cell, seed: float({"noise", "optimizer"} <= cell), factors)
    shares = factor_shares(table, factors)
    for name in ("noise", "optimizer"):
        assert effect(shares, name, "first in")["value"] == 0
        assert effect(shares, name, "last out")["value"] == 1
        assert effect(shares, name, "Shapley")["value"] == pytest.approx(0.5)
    pairs = interactions(table, factors).set_index(["first", "second"])["value"]
    assert pairs["noise", "optimizer"] == 1
    assert pairs.drop(("noise", "optimizer")).abs().max() == 0


def test_a_pair_whose_cells_were_not_all_run_has_no_interaction():
    factors = factors_of("bandit")
    table = rows_of(lambda cell, seed: float(len(cell)), factors)
    some = table[table["cell"].isin(["none", "noise", "optimizer", "noise+optimizer"])]
    assert len(interactions(some, factors)) == 0
    without = table[table["cell"] != "noise+form"]
    assert ("noise", "form") not in set(
        zip(*(interactions(without, factors)[end] for end in ("first", "second")), strict=True)
    )


def test_shapley_with_precedence_against_every_order_written_out():
    factors = factors_of("tree")
    rng = np.random.default_rng(0)
    value = {cell: rng.normal() for cell in full_factorial(factors)}
    shares = factor_shares(rows_of(lambda cell, seed: value[cell], factors), factors)
    names = [factor.name for factor in factors]
    sums, count = dict.fromkeys(names, 0.0), 0
    for order in itertools.permutations(names):
        if not order.index("reuse") < order.index("rate") < order.index("clip"):
            continue
        count += 1
        for i, name in enumerate(order):
            sums[name] += value[frozenset(order[: i + 1])] - value[frozenset(order[:i])]
    for name in names:
        assert effect(shares, name, "Shapley")["value"] == pytest.approx(sums[name] / count)
    total = sum(effect(shares, name, "Shapley")["value"] for name in names)
    assert total == pytest.approx(effect(shares, "all", "everything")["value"])


def test_seeds_without_a_value_are_left_out_and_counted():
    factors = factors_of("bandit")
    table = rows_of(lambda cell, seed: math.nan if seed == 1 and "noise" in cell else float(seed), factors)
    shares = factor_shares(table, factors)
    assert effect(shares, "noise", "first in")["n"] == 2
    assert effect(shares, "form", "first in")["n"] == 3


def curve(method, p, metric):
    p, metric = np.asarray(p, dtype=float), np.asarray(metric, dtype=float)
    values = dict.fromkeys(("pass@1", "pass@8", "entropy", "entropy_correct", "kl", "p_std"), metric)
    return CellRun("none", method, np.arange(len(p)), np.zeros(p.shape, dtype=int), values | {"pass@1": p})


def test_matching_at_the_first_crossing_of_common_levels():
    # seed 0: PSR reaches 0.5 halfway from 0.4 to 0.6; NSR at its second evaluation, and falls back. Seed 1 never does
    psr = curve("PSR", [[0.4, 0.3], [0.6, 0.35], [0.8, 0.4]], [[2.0, 2.0], [1.0, 1.9], [0.0, 1.8]])
    nsr = curve("NSR", [[0.4, 0.3], [0.5, 0.3], [0.4, 0.3]], [[2.0, 2.0], [1.8, 2.0], [9.0, 2.0]])
    table = gaps([psr, nsr], levels=(0.5, 0.7))
    rows = table[table["metric"] == "entropy"].set_index("seed")
    assert rows.loc[0, "matched"] == pytest.approx(1.8 - 1.5)
    assert rows.loc[0, "levels"] == 1
    assert np.isnan(rows.loc[1, "matched"])
    assert rows.loc[1, "levels"] == 0
    assert rows.loc[0, "last"] == pytest.approx(9.0)
    # a level that lies at or below the start was never crossed
    assert gaps([psr, nsr], levels=(0.3, 0.4))["levels"].max() == 0
    assert set(table["method"]) == {"NSR"}
    for runs in ([psr], [nsr, curve("GRPO", [[0.4], [0.6]], [[1.0], [1.0]])]):
        with pytest.raises(UsageError, match=r"runs: expected PSR and another method in each cell, got .* in none"):
            gaps(runs)


@pytest.mark.parametrize("policy", ["bandit", "tree", "loglinear"])
def test_learning_rates_hold_the_first_expected_step_fixed(policy):
    """Every constant baseline makes the step of PSR; the probability form one of that norm, both signs together."""
    settings = Cells(policy=policy, seeds=3, prompts=4)
    problem = settings.problem()

    def first_step(cell, method):
        table = _table_settings(frozenset(cell), method, settings, problem)
        right = problem.correct.to(problem.policy.parameters.dtype)
        optimizer, count = TableOptimizer("sgd", table.lr), UpdateCount(settings.seeds)
        return _expected_step(toy_policy(problem.policy), right, table, optimizer, count).parameters

    start = problem.policy.parameters
    plain = {m: first_step([], m) - start for m in ("PSR", "NSR", "W-REINFORCE", "REINFORCE", "baseline 0.75")}
    for step in plain.values():
        torch.testing.assert_close(step, plain["PSR"], rtol=1e-3, atol=1e-5)
    formed = sum(float((first_step(["form"], m) - start).norm()) for m in ("PSR", "NSR"))
    assert formed == pytest.approx(2 * float(plain["PSR"].norm()), rel=1e-3)


@pytest.mark.parametrize("policy", ["bandit", "tree", "loglinear"])
def test_without_any_factor_there_is_no_gap(policy):
    methods = ("PSR", "NSR", "W-REINFORCE", "baseline 0.25")
    settings = Cells(policy=policy, seeds=3, prompts=4, arms=40, steps=60, methods=methods)
    none = [(frozenset(), method) for method in settings.methods]
    table = gaps(run_cells(none, settings))
    # float32 rounding over 60 steps; constant baselines take the same path at a learning rate divided by 1 + λ
    assert table["matched"].abs().max() < 1e-3
    assert table["levels"].min() > 0
    with_form = [(frozenset({"form"}), method) for method in ("PSR", "NSR")]
    assert gaps(run_cells(with_form, settings))["matched"].abs().max() > 0.01


def test_adam_with_exact_gradients_makes_no_gap_and_with_noise_it_does():
    settings = Cells(seeds=4, prompts=16, steps=100, methods=("PSR", "NSR"))
    values = {}
    for cell in (frozenset({"optimizer"}), frozenset({"noise"}), frozenset({"noise", "optimizer"})):
        table = gaps(run_cells([(cell, method) for method in settings.methods], settings))
        of = table[table["metric"] == "entropy_correct"]["matched"]
        values[cell_name(cell)] = (of.mean(), of.std() / 2)
    assert abs(values["optimizer"][0]) < 1e-3
    assert values["noise+optimizer"][0] > 4 * values["noise+optimizer"][1]
    assert abs(values["noise"][0]) < values["noise+optimizer"][0] / 2


# A cell in which each factor acts, and by how much at least it moves NSR's path there: the greatest change of Pass@1 or
# of an entropy in nats, over evaluations and seeds. Fixed before the runs; a switch that changes no update gives 0.
ACTS = {
    "noise": (set(), 0.01),
    "form": (set(), 0.05),
    "length": (set(), 0.05),
    "reuse": ({"noise"}, 0.01),
    "rate": ({"reuse"}, 0.05),
    "clip": ({"noise", "reuse", "rate"}, 0.05),
    "optimizer": (set(), 0.05),
    "drop": (set(), 0.05),
}


@pytest.mark.parametrize("factor", ACTS)
def test_every_factor_changes_the_updates(factor):
    below, least = ACTS[factor]
    settings = Cells(policy="tree", seeds=2, prompts=3, steps=15, methods=("PSR", "NSR"))
    off, on = run_cells([(frozenset(below), "NSR"), (frozenset(below | {factor}), "NSR")], settings)
    metrics = ("pass@1", "entropy", "entropy_correct")
    assert max(np.abs(on.values[name] - off.values[name]).max() for name in metrics) > least


@pytest.mark.parametrize("policy", ["bandit", "tree", "loglinear"])
def test_the_clip_holds_tokens_where_all_passes_have_the_full_rate(policy):
    settings = Cells(policy=policy, seeds=2, prompts=3, steps=15, methods=("PSR", "NSR"))
    passes = {"noise", "reuse", "rate"}
    off, on = run_cells([(frozenset(passes), "NSR"), (frozenset(passes | {"clip"}), "NSR")], settings)
    assert (off.values["clipped"] == 0).all()
    assert (on.values["clipped"][0] == 0).all()  # nothing was updated yet
    assert (on.values["clipped"][-1] > 0.02).all()
    assert (on.values["clipped"] <= 1).all()


def test_passes_use_the_same_rows_and_rates_say_what_is_equal():
    settings = Cells(seeds=2, prompts=3)
    problem = settings.problem()
    tables = {
        name: _table_settings(frozenset(cell), "NSR", settings, problem)
        for name, cell in (("once", ()), ("quarter", ("reuse",)), ("full", ("reuse", "rate")))
    }
    assert [table.passes for table in tables.values()] == [1, 4, 4]
    assert {table.updates for table in tables.values()} == {1}  # every pass is over the whole batch
    assert tables["quarter"].lr * 4 == tables["full"].lr == tables["once"].lr


def test_differences_of_cells():
    factors = factors_of("bandit")
    table = rows_of(lambda cell, seed: 2.0 * ({"noise", "optimizer"} <= cell) + ("rate" in cell) * len(cell), factors)
    found = cell_differences(table, factors).set_index(["first", "second"])["value"]
    assert found["none", "noise"] == found["none", "optimizer"] == 0
    assert found["none", "noise+optimizer"] == 2
    assert found["noise+optimizer", "noise+reuse+optimizer"] == 0
    assert found["noise+optimizer", "noise+reuse+rate+optimizer"] == 4
    assert found["noise+optimizer", "noise+reuse+rate+clip+optimizer"] == 5
    assert len(found) == 3 + 5


OWN = """
from analysis import objectives

@objectives.register("mine", needs=("old_log_probs", "rewards"))
def mine(log_probs, batch):
    return -batch.per_token("rewards") * (log_probs - batch.old_log_probs).exp()

@objectives.register("whole", coupling="response")
def whole(log_probs, batch):
    return -batch.per_token("advantages") * log_probs.sum(-1, keepdim=True).exp()

def shapeless(log_probs, batch):
    return log_probs.sum()
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(own, "_OWN", {})
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return path


@pytest.mark.parametrize("policy", ["bandit", "tree", "loglinear"])
def test_a_loss_of_one_s_own_in_the_cells(policy, source):
    """PSR's loss written by hand is PSR, with exact gradients and with drawn ones, on- and off-policy."""
    method = f"{source}:mine"
    settings = Cells(policy=policy, seeds=2, prompts=3, arms=40, steps=10)
    for cell in ({}, {"noise"}, {"reuse", "optimizer"}, {"noise", "reuse", "optimizer"}):
        ours, psr = run_cells([(frozenset(cell), name) for name in (method, "PSR")], settings)
        assert ours.method == method
        for name, value in psr.values.items():
            np.testing.assert_allclose(ours.values[name], value, atol=1e-4)  # float32, and Adam at small gradients
        assert np.abs(psr.values["pass@1"][-1] - psr.values["pass@1"][0]).max() > 0.01
    by_name = next(iter(run_cells([(frozenset({"noise"}), "mine")], settings)))
    assert by_name.method == "mine"  # loading the file has registered it
    with pytest.raises(UsageError, match=r"methods: 'mine' is registered in this process alone.* name it file.py:mine"):
        list(run_cells([(frozenset(), "mine"), (frozenset(), "PSR")], settings, workers=2))


@pytest.mark.slow
def test_a_loss_of_one_s_own_by_the_command(source, tmp_path, monkeypatch, capsys):
    """Worker processes load it by its file; its cells have files of their own."""
    monkeypatch.chdir(tmp_path)
    assert main([*ARGUMENTS, "--workers", "2", "--out", "f", "--methods", "PSR, NSR,mine.py:mine", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    (table,) = [table for table in said["tables"] if table["title"] == "every method against PSR"]
    assert "mine.py:mine" in json.dumps(table)
    assert len(list((tmp_path / "f/cells").iterdir())) == 3 * len(one_factor_cells(factors_of("bandit")))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("whole", r"--methods: expected objectives that weigh each token by itself, got mine.py:whole"),
        ("shapeless", r"shapeless: expected a loss for each token, shape .* got \(\)"),
        ("min", r"--methods: .*expected one of mine, whole, shapeless, got 'min'"),
    ],
)
def test_a_loss_of_one_s_own_that_will_not_do(source, tmp_path, monkeypatch, capsys, name, message):
    monkeypatch.chdir(tmp_path)
    assert main([*ARGUMENTS, "--out", "f", "--methods", f"PSR,NSR,mine.py:{name}"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_problems_are_fixed_by_their_seed():
    one, two = (make_problem("bandit", seeds=2, prompts=3, arms=10, seed=0) for _ in range(2))
    assert torch.equal(one.policy.logits, two.policy.logits)
    assert torch.equal(one.correct, two.correct)
    assert one.correct.sum(-1).unique().tolist() == [4]
    other = make_problem("bandit", seeds=2, prompts=3, arms=10, seed=1)
    assert not torch.equal(one.policy.logits, other.policy.logits)


@pytest.mark.parametrize(
    ("cell", "change", "message"),
    [
        ({"nosie"}, {}, "jobs: a cell of bandit has no factor 'nosie'; did you mean noise"),
        (
            {"length"},
            {},
            "jobs: a cell of bandit has no factor 'length'; known: clip, drop, form, noise, optimizer, rate",
        ),
        ({"clip"}, {}, "jobs: the factor clip needs rate to be on, got clip"),
        ({"optimizer"}, {"optimizer": "adamw"}, "optimizer: expected one of sgd, momentum, adam, lion, got 'adamw'"),
        ({"noise"}, {"policy": "tre"}, "policy: expected one of bandit, tree, loglinear, got 'tre'"),
    ],
)
def test_cells_that_do_not_exist(cell, change, message):
    with pytest.raises(UsageError, match=message):
        list(run_cells([(frozenset(cell), "PSR")], dataclasses.replace(SMALL, **change)))


@pytest.mark.slow
def test_workers_and_resumption_change_nothing(tmp_path):
    jobs = [(frozenset(), "PSR"), (frozenset({"noise"}), "NSR"), (frozenset({"noise"}), "PSR")]
    alone, together = (list(run_cells(jobs, SMALL, workers=n)) for n in (1, 2))
    folder = FactorialFolder(tmp_path / "f", SMALL)
    for a, b in zip(alone, together, strict=True):
        folder.save(a)
        loaded = FactorialFolder(tmp_path / "f", SMALL).load(a.cell, a.method)
        assert (a.cell, a.method) == (b.cell, b.method) == (loaded.cell, loaded.method)
        for other in (b, loaded):
            np.testing.assert_array_equal(a.steps, other.steps)
            np.testing.assert_array_equal(a.updates, other.updates)
            assert list(a.values) == list(other.values)
            for name, value in a.values.items():
                np.testing.assert_array_equal(value, other.values[name])


ARGUMENTS = ["--seeds", "3", "--prompts", "4", "--arms", "10", "--steps", "30", "--workers", "1", "--quiet"]


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files = ["--figure", "x/y.png", "--results", "x/y.json"]
    assert main([*ARGUMENTS, "--out", "f", "--full", "--methods", "PSR,NSR", "--json", *files]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["folder"] == "f"
    keys = [table["key"] for table in said["tables"]]
    assert keys == [
        *(f"factors_{metric}" for metric in ("entropy_correct", "entropy", "pass_at_8")),
        *("methods", "cells", "interactions", "clipped"),
    ]
    assert json.loads((tmp_path / "f/ladder.json").read_text())["status"] == "complete"
    tables = ("gaps", "shares", "interactions", "differences", "clipped")
    for name in (*(f"{table}.parquet" for table in tables), "summary.md", "factorial.png"):
        assert (tmp_path / "f" / name).stat().st_size > 0
    results = json.loads((tmp_path / "x/y.json").read_text())
    assert results["command"].startswith("python -m analysis.factorial --seeds 3")
    assert results["settings"]["seeds"] == 3
    assert len(results["gaps"]) == 64 * 3 * 2  # cells, metrics, at equal Pass@1 and at equal steps
    (everything,) = [
        row["value"]
        for row in results["shares"]
        if (row["factor"], row["metric"], row["view"]) == ("all", "entropy_correct", "matched")
    ]
    last = results["gaps"][-6]
    assert (last["cell"], last["metric"], last["view"]) == (results["paths"][-1]["cell"], "entropy_correct", "matched")
    assert last["value"] == pytest.approx(everything, abs=2e-6)
    assert (tmp_path / "x/y.png").read_bytes() == (tmp_path / "f/factorial.png").read_bytes()
    shares = pd.read_parquet(tmp_path / "f/shares.parquet")
    assert set(shares["kind"]) == {"first in", "last out", "Shapley", "everything"}
    # again: nothing is run a second time
    monkeypatch.setattr("analysis.factorial.cells._run", None)
    assert main([*ARGUMENTS, "--out", "f", "--methods", "PSR,NSR"]) == 0
    assert "at equal Pass@1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "tre"], r"--policy: expected one of bandit, tree, loglinear, got 'tre' \(did you mean tree"),
        (["--optimizer", "sgd"], r"--optimizer: expected one of .* got 'sgd'"),
        (["--methods", "PSR,NSR,GRP"], r"--methods: expected one of .* got 'GRP' \(did you mean GRPO"),
        (["--methods", "PSR,GRPO"], r"--methods: expected PSR and NSR among them"),
        (["--methods", "PSR,NSR,psr"], r"--methods: expected one of .* got 'psr' \(did you mean PSR"),
        (["--methods", "PSR,NSR,PSR"], r"--methods: expected each once, got PSR,NSR,PSR"),
        (["--figure", "."], r"--figure: expected a file, got the folder \."),
        (["--results", "x.txt"], r"--results: expected a file ending in \.json, got x\.txt"),
        (["--figure", "/proc/x.png"], r"--figure: expected a file that can be written, got /proc/x.png"),
        (["--methods", "PSR,NSR,gspo"], r"--methods: expected objectives that weigh each token by itself, got gspo"),
        (["--methods", "PSR,NSR,dpo"], r"--methods: objective: dpo compares pairs of responses, which --policy bandit"),
        (["--methods", "PSR,NSR,kl-k2"], r"--methods: objective: kl-k2 refers to a reference policy"),
        (["--methods", "PSR,NSR,kl-cov"], r"--methods: objective: kl-cov chooses tokens over a minibatch"),
        (["--methods", "PSR,NSR,entropy-bonus"], r"--methods: objective: entropy-bonus is a regulariser"),
        (["--methods", "PSR,NSR,rewarding-unlikely"], r"--methods: objective: rewarding-unlikely ranks the responses"),
        (["--methods", "PSR,NSR,asymre"], r"--methods: objective.baseline: asymre needs it"),
        (["--methods", "PSR,NSR,no.py:f"], r"--methods: .*expected an existing Python file, got"),
        (["--seeds", "1"], r"--seeds: expected at least 2, got 1"),
        (["--prompts", "0"], r"--prompts: expected at least 1, got 0"),
        (["--arms", "1"], r"--arms: expected at least 2, got 1"),
        (["--steps", "0"], r"--steps: expected at least 1, got 0"),
        (["--group-size", "1"], r"--group-size: expected at least 2, got 1"),
        (["--workers", "0"], r"--workers: expected at least 1, got 0"),
        (["--lr-scale", "0"], r"--lr-scale: expected a positive number, got 0"),
        (["--policy", "tree", "--arms", "10"], r"arms: the tree has 40 responses to a prompt, got arms = 10"),
    ],
)
def test_bad_requests(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main([*ARGUMENTS[-3:], *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_folders_of_something_else_are_refused(tmp_path):
    FactorialFolder(tmp_path / "f", SMALL)
    with pytest.raises(UsageError, match="holds a factorial with other settings"):
        FactorialFolder(tmp_path / "f", Cells())
    (tmp_path / "g").mkdir()
    (tmp_path / "g/x").write_text("")
    with pytest.raises(UsageError, match="out: expected a new or empty folder"):
        FactorialFolder(tmp_path / "g", SMALL)
    (tmp_path / "f/ladder.json").write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        FactorialFolder(tmp_path / "f", SMALL)
