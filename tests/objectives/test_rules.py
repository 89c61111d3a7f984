"""Which settings of an objective are refused, with what message, and that refusing needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from analysis import objectives
from analysis.errors import UsageError
from analysis.objectives import rules
from analysis.objectives.entries import ENTRIES
from analysis.objectives.rules import not_trainable
from analysis.recipes.fields import ObjectiveFields, objective_settings

GOOD = (
    {"name": "psr"},
    {"name": "nsr", "form": "probability", "clip_low": 0.0, "clip_high": 0.28, "dual_clip": 3},
    {"name": "w-reinforce", "lambda_": 0},
    {"name": "w-reinforce", "lambda_": 0.1, "form": "log", "advantage": "batch_mean_std", "group_size": 1},
    {"name": "reinforce", "advantage": "group_mean", "group_size": 2},
    {"name": "reinforce", "group_size": 1},
    {"name": "grpo", "group_size": 8, "advantage": "group_mean"},
)

BAD = (
    ({"name": "pssr"}, r"objective.name: unknown value 'pssr'; did you mean psr"),
    ({"name": None}, r"objective.name: unknown value None; known: psr-ratio"),
    ({"name": "psr", "form": "probabilty"}, r"objective.form: unknown value 'probabilty'; did you mean probability"),
    ({"name": "cispo", "form": "ratio"}, r"objective.form: cispo has no forms, got ratio; leave it unset"),
    ({"name": "cipso"}, r"objective.name: unknown value 'cipso'; did you mean cispo"),
    ({"name": "mine.py:f", "kappa": 1.0}, r"objective.kappa: only kl-cov has it, got 1.0 with mine.py:f"),
    ({"name": "sapo", "tau_pos": 0}, r"objective.tau_pos: expected a number > 0, got 0"),
    ({"name": "nft", "prompt_weight": "q"}, r"objective.prompt_weight: unknown value 'q'; known: 1-q, none, sqrt"),
    ({"name": "kl-cov", "share": 1.5}, r"objective.share: expected a number > 0, ≤ 1, got 1.5"),
    ({"name": "asymre"}, r"objective.baseline: the advantage constant needs it|objective.baseline: asymre needs it"),
    ({"name": "grpo", "baseline": 0.5}, r"objective.baseline: only the advantage constant has it, got 0.5 with group"),
    ({"name": "grpo", "advantage": "constant"}, r"objective.baseline: the advantage constant needs it"),
    ({"name": "nft", "group_size": 1}, r"rollout.group_size: nft compares the responses .* got 1"),
    ({"name": "rloo", "group_size": 1}, r"rollout.group_size: rloo with advantage leave_one_out .* got 1"),
    ({"name": "psr", "advantage": "group_std"}, r"objective.advantage: unknown value 'group_std'; did you mean"),
    ({"name": "psr", "lambda_": 0.1}, r"objective.lambda: only w-reinforce has it, got 0.1 with psr-ratio"),
    ({"name": "w-reinforce"}, r"objective.lambda: w-reinforce-ratio needs it"),
    ({"name": "w-reinforce", "lambda_": -1}, r"objective.lambda: expected a number ≥ 0, got -1"),
    ({"name": "w-reinforce", "lambda_": "0.1"}, r"objective.lambda: expected a number ≥ 0, got '0.1' \(str\)"),
    ({"name": "w-reinforce", "lambda_": float("nan")}, r"objective.lambda: expected a number ≥ 0, got nan"),
    ({"name": "psr", "clip_low": 1.2}, r"objective.clip_low: expected a number in \[0, 1\], got 1.2"),
    ({"name": "psr", "clip_high": -0.1}, r"objective.clip_high: expected a number ≥ 0, got -0.1"),
    ({"name": "psr", "clip_high": True}, r"objective.clip_high: expected a number ≥ 0, got True \(bool\)"),
    ({"name": "psr", "dual_clip": 1}, r"objective.dual_clip: expected a number > 1, got 1"),
    ({"name": "psr", "form": "log", "clip_low": 0.2}, r"objective.clip_low: the form log has no ratio .* got 0.2"),
    ({"name": "psr", "form": "log", "clip_high": 0.2}, r"objective.clip_high: the form log has no ratio to clip"),
    ({"name": "psr", "form": "log", "dual_clip": 2}, r"objective.dual_clip: the form log has no ratio to clip"),
    ({"name": "grpo", "advantage": "none"}, r"objective.advantage: grpo is defined by its group .* got none"),
    ({"name": "grpo", "group_size": 1}, r"rollout.group_size: grpo with advantage group_mean_std .* got 1"),
    ({"name": "grpo", "advantage": "batch_mean_std", "group_size": 1}, r"rollout.group_size: grpo with advantage b"),
    ({"name": "nsr", "advantage": "group_mean", "group_size": 1}, r"group_size: nsr-ratio with advantage group_mean "),
)


@pytest.mark.parametrize("settings", GOOD)
def test_settings_that_go_together(settings: dict[str, object]) -> None:
    objectives.check(**({"form": "ratio"} | settings))


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_settings_that_do_not(settings: dict[str, object], message: str) -> None:
    if settings["name"] in ("psr", "nsr", "w-reinforce", "reinforce"):
        settings = {"form": "ratio"} | settings
    with pytest.raises(UsageError, match=message):
        objectives.check(**settings)
    if "group_size" not in settings and not rules.is_own(settings["name"]):
        with pytest.raises(UsageError, match=message):
            objectives.get(**settings)


@pytest.mark.parametrize("name", ["psr", "nsr", "w-reinforce", "reinforce"])
def test_no_default_hides_the_form(name: str) -> None:
    with pytest.raises(UsageError, match=f"objective.form: {name} needs a form; choose ratio, probability or"):
        objectives.entry(name)
    for form in rules.FORMS:
        assert objectives.entry(name, form) is objectives.entry(f"{name}-{form}")
    with pytest.raises(UsageError, match=f"objective.form: {name}-ratio is of form ratio, got log; leave it unset"):
        objectives.entry(f"{name}-ratio", "log")


def test_the_recipe_has_the_same_choices() -> None:
    choices = {name: field.metadata.get("choices") for name, field in ObjectiveFields.__dataclass_fields__.items()}
    assert choices["form"] == rules.FORMS
    assert choices["advantage"] == rules.ADVANTAGES
    named = {name for entry in ENTRIES.values() if not_trainable(entry.name, None) is None for name in entry.defaults}
    assert named <= set(objective_settings(ObjectiveFields()))


@pytest.mark.slow
def test_checking_needs_no_torch() -> None:
    code = (
        "import sys; from analysis import objectives; objectives.names(); objectives.check(name='psr-log'); "
        "assert 'torch' not in sys.modules; objectives.get('psr-log'); assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_exist() -> None:
    assert set(objectives.__all__) == set(dir(objectives))
    assert all(getattr(objectives, name) is not None for name in objectives.__all__)
    with pytest.raises(AttributeError, match="attribute nothing"):
        _ = objectives.nothing
