from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import UsageError
from analysis.recipes import PlannedRun, Recipe, RunConfig, config_from_dict, config_to_dict
from analysis.recipes.config import FIELDS, read_value


@pytest.fixture(scope="module")
def default() -> Recipe:
    return Recipe.load("default")


def one_run(**dotted: object) -> RunConfig:
    """The configuration of a recipe with a single run and these fields."""
    (planned,) = Recipe.from_dict({"schema": 1, "name": "one"}).set(**dotted).expand()
    return planned.config


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


class TestBuiltIn:
    def test_default_is_regime_b(self, default: Recipe) -> None:
        runs = default.expand()
        assert [run.run_id for run in runs] == ["psr-seed0", "nsr-seed0", "w-reinforce-seed0", "grpo-seed0"]
        assert [run.label for run in runs] == ["PSR", "NSR", "W-REINFORCE", "GRPO"]
        assert [run.config.update.rows for run in runs] == ["drop", "drop", "keep", "keep"]
        assert [run.config.objective.lambda_ for run in runs] == [None, None, 0.1, None]
        for config in (run.config for run in runs):
            assert (config.steps, config.task.train_prompts, config.optimizer.lr) == (40, 1024, 1.5e-4)
            assert (config.rollout.prompts, config.rollout.group_size, config.update.minibatches) == (128, 8, 4)
            assert (config.objective.clip_low, config.objective.clip_high) == (0.2, 0.2)
            assert (config.optimizer.max_grad_norm, config.optimizer.weight_decay) == (1.0, 0.0)
            assert (config.update.drop, config.update.normalizer) == ("before", "batch_tokens")

    def test_regime_a(self) -> None:
        config = Recipe.load("regime-a").expand()[0].config
        assert (config.steps, config.task.train_prompts, config.optimizer.lr) == (50, 256, 4e-4)

    @pytest.mark.parametrize("name", Recipe.names())
    def test_each_says_what_it_is_and_costs(self, name: str) -> None:
        recipe = Recipe.load(name)
        assert recipe.name == name
        assert recipe.about
        assert recipe.cost

    @pytest.mark.parametrize("name", Recipe.names())
    def test_round_trips(self, name: str) -> None:
        recipe = Recipe.load(name)
        again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
        assert again == recipe
        assert again.hash == recipe.hash
        for run in recipe.expand():
            assert config_from_dict(json.loads(json.dumps(config_to_dict(run.config), allow_nan=False))) == run.config

    def test_reading_them_loads_no_torch(self) -> None:
        code = (
            "import sys; from analysis import Recipe; [Recipe.load(n).hash for n in Recipe.names()];"
            "sys.exit(bool({'torch', 'numpy', 'pandas', 'transformers'} & sys.modules.keys()))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestLoad:
    def test_path(self, tmp_path: Path) -> None:
        path = write(tmp_path / "mine.toml", "schema = 1\nsteps = 3\n[objective]\nname = 'nsr-ratio'\n")
        recipe = Recipe.load(path)
        assert recipe.name == "mine"
        config = one_run(steps=3, **{"objective.name": "nsr-ratio"})
        assert recipe.expand() == [PlannedRun("nsr-seed0", "NSR", config)]

    def test_unknown_name(self) -> None:
        with pytest.raises(UsageError, match=r"recipe 'defualt': expected a built-in .*did you mean default\?"):
            Recipe.load("defualt")

    def test_missing_file(self) -> None:
        with pytest.raises(UsageError, match=r"recipe 'nowhere/x\.toml'.*no such file"):
            Recipe.load("nowhere/x.toml")

    def test_syntax_error_gives_the_line(self, tmp_path: Path) -> None:
        path = write(tmp_path / "bad.toml", "schema = 1\nsteps = = 3\n")
        with pytest.raises(UsageError, match=r"bad\.toml: not valid TOML: .*line 2"):
            Recipe.load(path)

    def test_not_text(self, tmp_path: Path) -> None:
        path = tmp_path / "bad.toml"
        path.write_bytes(b"\xff\xfe")
        with pytest.raises(UsageError, match="not valid TOML"):
            Recipe.load(path)

    @pytest.mark.parametrize(("line", "message"), [("", "schema: missing"), ("schema = 2", "expected 1, got 2")])
    def test_schema(self, tmp_path: Path, line: str, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            Recipe.load(write(tmp_path / "old.toml", line))

    def test_name_must_name_a_folder(self) -> None:
        with pytest.raises(UsageError, match=r"name: expected letters.* got \"a/b\""):
            Recipe.from_dict({"schema": 1, "name": "a/b"})


class TestValues:
    @pytest.mark.parametrize(
        ("path", "value", "read"),
        [
            ("optimizer.lr", 1, 1.0),
            ("optimizer.betas", [0, 0.99], (0.0, 0.99)),
            ("eval.temperatures", [1], (1.0,)),
            ("objective.clip_low", None, None),
            ("update.epochs", "unset", 1),
            ("objective.clip_high", "unset", None),
            ("record.checkpoint", False, False),
        ],
    )
    def test_read(self, path: str, value: object, read: object) -> None:
        got = read_value(path, value)
        assert got == read
        assert type(got) is type(read)

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            ("update.epochs", True, "update.epochs: expected an integer ≥ 1, got true"),
            ("update.epochs", 1.0, "update.epochs: expected an integer ≥ 1, got 1.0"),
            ("update.epochs", 0, "update.epochs: expected an integer ≥ 1, got 0"),
            ("update.epochs", "four", 'update.epochs: expected an integer ≥ 1, got "four"'),
            ("update.epochs", None, "update.epochs: expected an integer ≥ 1, got unset"),
            ("optimizer.lr", True, "optimizer.lr: expected a number > 0, got true"),
            ("optimizer.lr", 0.0, "optimizer.lr: expected a number > 0, got 0.0"),
            ("optimizer.lr", float("nan"), "optimizer.lr: expected a number > 0, got NaN"),
            ("optimizer.momentum", 1.0, "optimizer.momentum: expected a number ≥ 0, < 1, got 1.0"),
            ("task.false_positive", 1.5, "task.false_positive: expected a number ≥ 0, ≤ 1, got 1.5"),
            ("optimizer.betas", [0.9], r"optimizer.betas: expected 2 numbers, each ≥ 0, < 1, got \[0.9\]"),
            ("eval.temperatures", [], r"eval.temperatures: expected a list of numbers, each > 0, got \[\]"),
            ("eval.temperatures", 1.0, "eval.temperatures: expected a list of numbers, each > 0, got 1.0"),
            ("eval.temperatures", [1.0, -1.0], r"each > 0, got \[1.0, -1.0\]"),
            ("policy.base", 7, "policy.base: expected a string, got 7"),
            ("record.checkpoint", 1, "record.checkpoint: expected true or false, got 1"),
            ("update.rows", 3, "update.rows: expected one of keep, drop, got 3"),
            ("update.epoch", 3, r"update.epoch: unknown field \(did you mean epochs\?\)"),
            ("betas", 3, r"betas: unknown field \(did you mean optimizer.betas\?\)"),
            ("updates.epochs", 3, r"updates.epochs: unknown table \(did you mean update\?\)"),
            ("update", 3, "update: expected a field, got a table; write update.<field>"),
        ],
    )
    def test_refused(self, path: str, value: object, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            read_value(path, value)

    def test_every_field_reads_its_own_default(self) -> None:
        for path, field in FIELDS.items():
            assert read_value(path, field.default) == field.default

    def test_lambda_is_spelled_without_underscore(self) -> None:
        config = one_run(**{"objective.name": "w-reinforce-ratio", "objective.lambda": 0.5})
        assert config.objective.lambda_ == 0.5
        assert config_to_dict(config)["objective"]["lambda"] == 0.5


class TestCombinations:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"objective.name": "pser"}, "objective.name: unknown value 'pser'; did you mean psr"),
            ({"objective.name": "psr"}, "objective.form: psr needs a form; choose ratio, probability or log"),
            ({"objective.name": "dpo"}, 'objective.name = "dpo": dpo compares pairs of a chosen and a rejected'),
            ({"objective.name": "entropy-bonus"}, "is a regulariser; set objective.entropy_coef beside an objective"),
            ({"objective.name": "kl-full"}, "is a regulariser; set objective.kl_coef and objective.kl_estimator"),
            ({"objective.name": "sapo", "objective.kappa": 2.0}, "objective.kappa: only kl-cov has it, got 2.0 with"),
            ({"objective.name": "gspo", "critic.enabled": True}, "its group mean is a baseline already"),
            ({"objective.name": "nft", "critic.enabled": True}, "its weights are not advantages that a critic"),
            ({"objective.lambda": 0.1, "objective.name": "psr-ratio"}, r"objective\.lambda.*psr"),
            ({"objective.name": "w-reinforce-log"}, r"objective\.lambda.*w-reinforce"),
            ({"objective.name": "grpo", "rollout.group_size": 1}, r"rollout\.group_size.*grpo"),
            ({"objective.advantage": "group_mean", "rollout.group_size": 1}, r"rollout\.group_size.*group_mean"),
            ({"objective.name": "psr-log", "objective.clip_low": 0.2}, r"objective\.clip_low.*log"),
            ({"objective.kl_estimator": "full", "objective.kl_placement": "reward"}, "needs a sampled estimator"),
            ({"record.jvp_every": 0, "record.shares_every": 1}, r"record.shares_every = 1 with record.jvp_every"),
            ({"optimizer.momentum": 0.9}, r'optimizer\.momentum = 0\.9 with optimizer\.name = "adamw"'),
            ({"optimizer.name": "sgd", "optimizer.betas": [0.8, 0.9]}, r"sgd takes momentum"),
            ({"update.minibatches": 2, "update.minibatch_size": 8}, r"update\.minibatches with update\.minibatch_size"),
            ({"update.minibatches": 2000}, r"update\.minibatches = 2000 with .* = 1024 rows"),
            ({"update.minibatch_size": 2000}, r"update\.minibatch_size = 2000 with .* = 1024 rows"),
            ({"update.normalizer": "constant"}, r'update\.normalizer = "constant" without update\.constant'),
            ({"update.constant": 5}, r'update\.constant = 5\.0 with update\.normalizer = "batch_tokens"'),
            ({"critic.enabled": True, "objective.name": "psr"}, r'critic\.enabled with objective\.name = "psr"'),
            ({"critic.enabled": True, "update.rows": "drop"}, r'critic\.enabled with update\.rows = "drop"'),
            ({"critic.enabled": True, "objective.advantage": "group_mean"}, r"critic\.enabled with .*: two baselines"),
            ({"update.autocast": "bfloat16", "policy.dtype": "float64"}, r"update\.autocast .* leaves float64"),
            ({"critic.enabled": True, "objective.name": "grpo"}, "its group mean is a baseline already"),
            ({"critic.lr": 0.1, "critic.clip": 0.2}, r"critic\.lr, critic\.clip without critic\.enabled"),
            (
                {"critic.enabled": True, "critic.whiten": True, "rollout.prompts": 1, "rollout.group_size": 1},
                r"critic\.whiten with rollout\.prompts × rollout\.group_size = 1 row",
            ),
            ({"update.drop": "after"}, r'update\.drop = "after" with update\.rows = "keep"'),
            ({"rollout.prompts": 2000}, r"rollout\.prompts = 2000 with task\.train_prompts = 1024"),
            ({"eval.temperatures": [1, 1.0]}, r"eval\.temperatures = \[1\.0, 1\.0\]: expected each temperature once"),
            ({"device": "tpu"}, r'device: expected auto, cpu, cuda or cuda:N, got "tpu"'),
            ({"policy.base": "tiny"}, r'policy\.base = "tiny" with task\.name = "path"'),
            (
                {"rollout.fixed": True, "rollout.refresh_every": 0},
                r"rollout\.fixed with rollout\.refresh_every = 0: fixed",
            ),
            ({"update.mask_low": 0.8}, r"update\.mask_low without update\.token_mask: no token is masked; set it"),
            ({"update.mask_norm": "full"}, r"update\.mask_norm without update\.token_mask"),
            ({"update.token_mask": "entropy"}, r"update\.mask_low = 0 and update\.mask_high = 1: every token is kept"),
            (
                {"update.token_mask": "entropy", "update.mask_low": 0.5, "update.mask_high": 0.5},
                r"update\.mask_low = 0\.5 with update\.mask_high = 0\.5: no token lies between them; set mask_low",
            ),
            ({"update.token_mask": "rank"}, r"update\.token_mask: expected one of probability, entropy, signed_change"),
            ({"rollout.refresh_every": -1}, r"rollout\.refresh_every: expected an integer ≥ 0, got -1"),
        ],
    )
    def test_refused(self, fields: dict[str, object], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            one_run(**fields)

    EXACT = {"update.estimator": "exact", "update.normalizer": "constant", "update.constant": 1024}  # noqa: RUF012

    def test_exact(self) -> None:
        assert one_run(**self.EXACT).update.estimator == "exact"

    @pytest.mark.parametrize(
        ("fields", "need"),
        [
            ({"update.epochs": 2}, r"update\.epochs = 1"),
            ({"update.minibatches": 2}, "one minibatch"),
            ({"update.minibatch_size": 64}, "one minibatch"),
            ({"update.rows": "drop"}, r'update\.rows = "keep"'),
            ({"update.normalizer": "batch_tokens", "update.constant": "unset"}, r'update\.normalizer = "constant"'),
            ({"objective.name": "psr-probability"}, r"objective\.form"),
            ({"objective.name": "grpo"}, "not grpo"),
            ({"objective.advantage": "batch_mean_std"}, r'objective\.advantage = "none"'),
            ({"objective.kl_coef": 0.1}, r"objective\.kl_coef = 0"),
            ({"objective.entropy_coef": 0.1}, r"objective\.entropy_coef = 0"),
            ({"rollout.top_p": 0.9}, r"rollout\.top_p = 1"),
            ({"rollout.top_k": 5}, r"rollout\.top_k = 0"),
            ({"critic.enabled": True}, r"critic\.enabled = false"),
            ({"task.false_negative": 0.1}, "no verifier noise"),
            ({"rollout.refresh_every": 2}, r"rollouts of the policy of each step \(rollout\.refresh_every = 1"),
            ({"rollout.fixed": True}, r"no rollout\.fixed"),
            ({"update.token_mask": "entropy", "update.mask_low": 0.8}, r"no update\.token_mask"),
        ],
    )
    def test_exact_needs(self, fields: dict[str, object], need: str) -> None:
        with pytest.raises(UsageError, match=rf'update\.estimator = "exact" requires .*{need}'):
            one_run(**(self.EXACT | fields))

    def test_all_problems_in_one_message(self, default: Recipe) -> None:
        with pytest.raises(UsageError) as caught:
            default.override("update.epoch=2", "steps=-1", "optimizer.momentum=0.5", "rollout.group_size=1")
        message = str(caught.value)
        assert message.startswith("recipe default: 4 problems")
        for part in ("update.epoch: unknown", "steps: expected", "optimizer.momentum = 0.5", "rollout.group_size"):
            assert message.count(part) == 1
        assert "(in grpo-seed0)" in message

    def test_a_refused_value_does_not_cause_a_second_complaint(self, default: Recipe) -> None:
        with pytest.raises(UsageError) as caught:
            default.override("objective.lambda=much")
        assert "\n" not in str(caught.value)
        assert "grid.method 3 (W-REINFORCE): objective.lambda: expected a number ≥ 0" in str(caught.value)


class TestGrid:
    def test_methods_times_lists(self, default: Recipe) -> None:
        runs = default.override("grid.optimizer.lr=[1e-4, 2e-4]", "grid.seed=[0, 1]").expand()
        assert len(runs) == 16
        assert [run.run_id for run in runs[:4]] == [
            "psr-lr0.0001-seed0",
            "psr-lr0.0001-seed1",
            "psr-lr0.0002-seed0",
            "psr-lr0.0002-seed1",
        ]
        assert runs[2].label == "PSR lr=0.0002"
        assert runs[0].label == runs[1].label
        assert (runs[3].config.optimizer.lr, runs[3].config.seed) == (2e-4, 1)

    def test_without_methods_the_objective_is_the_label(self) -> None:
        recipe = Recipe.from_dict({"schema": 1, "grid": {"objective": {"name": ["psr-ratio", "nsr-ratio"]}}})
        assert [(run.run_id, run.label) for run in recipe.expand()] == [("psr-seed0", "PSR"), ("nsr-seed0", "NSR")]

    def test_reinforce_with_a_critic_is_called_ppo(self) -> None:
        recipe = Recipe.from_dict({"schema": 1, "grid": {"critic": {"enabled": [False, True]}}})
        assert [run.label for run in recipe.expand()] == ["REINFORCE enabled=false", "PPO enabled=true"]

    def test_equal_last_names_are_spelled_out(self) -> None:
        grid = {"objective.name": ["psr-ratio"], "optimizer.name": ["sgd", "adamw"]}
        runs = Recipe.from_dict({"schema": 1, "grid": grid}).expand()
        assert [run.run_id for run in runs] == ["psr-optimizer.namesgd-seed0", "psr-optimizer.nameadamw-seed0"]

    @pytest.mark.parametrize(
        ("grid", "message"),
        [
            ({"seed": 3}, "grid.seed: expected a list of values, got 3"),
            ({"seed": []}, r"grid.seed: expected a list of values, got \[\]"),
            ({"seed": [0, -1]}, "grid: seed: expected an integer ≥ 0, got -1"),
            ({"sed": [0]}, r"grid: sed: unknown field \(did you mean seed\?\)"),
            ({"seed": [1, 1]}, "both give the run reinforce-seed1"),
            ({"method": [{"objective": {"name": "psr"}}]}, "grid.method 1: expected .* with a label"),
            ({"method": [{"label": "A"}, {"label": "a", "steps": 3}]}, '"A" and "a" both give the run a-seed0'),
            ({"method": [{"label": "A"}, {"label": "B"}]}, "a-seed0 and b-seed0 are the same in every field"),
        ],
    )
    def test_refused(self, grid: dict[str, object], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            Recipe.from_dict({"schema": 1, "grid": grid})

    def test_a_problem_of_every_value_is_told_once(self) -> None:
        with pytest.raises(UsageError) as caught:
            Recipe.from_dict({"schema": 1, "grid": {"sed": [0, 1]}})
        assert str(caught.value).count("unknown field") == 1

    def test_shown_in_a_line_and_as_a_table(self, default: Recipe) -> None:
        assert repr(default) == "<Recipe default: 4 runs of PSR, NSR, W-REINFORCE, GRPO>"
        table = default.set(about="a < b")._repr_html_()
        assert table.count("<tr>") == 5
        assert "<th>objective.name</th>" in table
        assert "a &lt; b" in table

    def test_labels_become_folder_names(self) -> None:
        method = {"label": "W-REINFORCE λ=0.1 / größer", "steps": 1}
        (run,) = Recipe.from_dict({"schema": 1, "grid": {"method": [method]}}).expand()
        assert run.run_id == "w-reinforce-lambda0.1-grosser-seed0"


class TestOverride:
    def test_literals_and_words(self, default: Recipe) -> None:
        config = (
            default.override(
                "update.epochs = 4",
                "optimizer.name=sgd",
                "eval.temperatures=[0.5, 2]",
                'policy.base="path"',
                "record.checkpoint=false",
            )
            .expand()[0]
            .config
        )
        assert (config.update.epochs, config.optimizer.name, config.eval.temperatures) == (4, "sgd", (0.5, 2.0))
        assert config.record.checkpoint is False

    def test_reaches_every_method(self, default: Recipe) -> None:
        assert {run.config.update.rows for run in default.override("update.rows=keep").expand()} == {"keep"}

    def test_lambda_reaches_w_reinforce_only(self, default: Recipe) -> None:
        lambdas = [run.config.objective.lambda_ for run in default.set(**{"objective.lambda": 0.5}).expand()]
        assert lambdas == [None, None, 0.5, None]

    def test_settings_of_the_critic_reach_those_that_have_one(self) -> None:
        runs = Recipe.load("ppo").override("critic.lr=0.01").expand()
        assert {run.label: run.config.critic.lr for run in runs} == {
            "REINFORCE": 1e-3,
            "GRPO": 1e-3,
            "PPO": 0.01,
            "PPO clip-higher": 0.01,
        }

    def test_unset(self, default: Recipe) -> None:
        configs = [run.config for run in default.override("objective.clip_low=unset", "steps=unset").expand()]
        assert {config.objective.clip_low for config in configs} == {None}
        assert {config.steps for config in configs} == {RunConfig().steps}

    def test_of_a_grid_field_ends_its_variation(self, default: Recipe) -> None:
        assert len(default.override("grid.seed=[0, 1]").override("seed=5").expand()) == 4

    def test_grid_unset_leaves_one_run(self, default: Recipe) -> None:
        (run,) = default.override("grid=unset", "objective.name=nsr").expand()
        assert run.run_id == "nsr-seed0"

    def test_nested(self, default: Recipe) -> None:
        assert default.set(update={"epochs": 2}) == default.set(**{"update.epochs": 2})

    def test_leaves_the_original_alone(self, default: Recipe) -> None:
        before = default.to_dict()
        default.override("objective.lambda=0.7", "grid.seed=[3]", "steps=1")
        assert default.to_dict() == before

    @pytest.mark.parametrize("setting", ["update.epochs", "=4", ""])
    def test_needs_an_equals_sign(self, default: Recipe, setting: str) -> None:
        with pytest.raises(UsageError, match="--set: expected field=value"):
            default.override(setting)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (["seed=1", "grid.seed=[0, 1]"], "seed and grid.seed: expected one of them, got both"),
            (["seed=1", "seed=2"], "seed: expected one value, got 1 and 2"),
        ],
    )
    def test_no_setting_is_dropped_silently(self, default: Recipe, settings: list[str], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            default.override(*settings)
        assert [run.config.seed for run in default.override("seed=1", "seed=1").expand()] == [1] * 4

    def test_a_value_cannot_smuggle_in_another_field(self, default: Recipe) -> None:
        with pytest.raises(UsageError, match="steps: expected an integer"):
            default.override("steps=3\nseed=4")


class TestHash:
    def test_ignores_names_and_spelling(self, default: Recipe) -> None:
        renamed = default.set(name="other", about="", cost="")
        spelled = default.override("optimizer.lr=0.00015", "optimizer.eps=1e-8", "update.epochs=unset")
        assert default.hash == renamed.hash == spelled.hash

    def test_sees_every_field(self) -> None:
        plain = Recipe.from_dict({"schema": 1, "objective": {"name": "w-reinforce-ratio", "lambda": 0.2}})
        changes = {
            "steps": 41,
            "seed": 1,
            "threads": 2,
            "device": "cpu",
            "objective.lambda": 0.3,
            "record.tokens": 0.5,
            "objective.clip_low": 0.2,
            "eval.temperatures": [1.0],
            "policy.seed": 1,
            "update.rows": "drop",
        }
        hashes = {plain.set(**{path: value}).hash for path, value in changes.items()}
        assert len(hashes | {plain.hash}) == len(changes) + 1

    @pytest.mark.parametrize(
        ("name", "beginning"),
        [
            ("countdown", "e11d3134b0d5"),
            ("default", "d20c0b881d47"),
            ("ppo", "da461654137f"),
            ("regime-a", "c59bfc984e07"),
            ("tiny", "d69c72fe61aa"),
            ("two-modes", "33c123e65f86"),
        ],
    )
    def test_of_the_built_in_recipes_stands_still(self, name: str, beginning: str) -> None:
        """A new parameter of an objective, unset, is not a new experiment: recorded runs are found and resumed."""
        assert Recipe.load(name).hash.startswith(beginning)

    def test_of_the_default_is_stable_between_processes(self, default: Recipe) -> None:
        code = "from analysis import Recipe; print(Recipe.load('default').hash, end='')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == default.hash


def test_lambda_without_a_method_that_has_one_is_refused():
    with pytest.raises(UsageError, match=r"objective.lambda.*psr"):
        Recipe.load("tiny").override("objective.lambda=0.1")


def test_hash_does_not_depend_on_the_order_of_methods():
    recipe = Recipe.load("tiny")
    assert dataclasses.replace(recipe, methods=recipe.methods[::-1]).hash == recipe.hash
