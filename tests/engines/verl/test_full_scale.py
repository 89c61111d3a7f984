"""The recipes of the paper's runs compose with the installed verl, are valid, and set what they are meant to set."""

from __future__ import annotations

import copy
import functools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict
from transformers import AutoConfig
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.utils.dataset.rl_dataset import RLHFDataset

from analysis.engines.verl.configuration.checks import is_observed, problems
from analysis.engines.verl.configuration.composition import compose
from analysis.engines.verl.observing.record_settings import read_record
from analysis.errors import UsageError
from tests.offline.byte_models import byte_tokenizer

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "recipes" / "full_scale"
MODELS = {"qwen2.5-math-7b": 3072, "qwen3-4b": 31744}
METHODS = ("psr", "nsr", "w_reinforce", "grpo", "ppo")
NAMES = [f"{model}_{method}" for model in MODELS for method in METHODS]
EVALUATIONS = {  # samples, temperature, top-p, top-k of section 3 of the paper; tokens of a response
    "evaluate_qwen2.5-math-7b": (256, 0.6, 0.95, -1, 4096),
    "evaluate_qwen3-4b": (64, 0.7, 0.8, 20, 31744),
}
QUESTION = "What is 1+1?"
ASKED = f"{QUESTION}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
# rl_dataset.py of the paper's fork at a5d4e7c, with the question in place of {input}.
CHAT = f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>"
TEMPLATES = {
    "qwen2.5-math-7b": f"{CHAT}assistant\n",
    "qwen3-4b": f"{CHAT}assistant\n<think>\n\n</think>\n",
}


def composed(name: str, *more: str) -> DictConfig:
    return copy.deepcopy(_composed(name, *more))


@functools.cache
def _composed(name: str, *more: str) -> DictConfig:
    return compose([f"@{FOLDER / name}.txt", *more])


def test_the_files_are_these() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.txt")) == sorted([*NAMES, *EVALUATIONS])


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """verl reads configuration and tokenizer of a model where it makes a value model's settings."""
    folder = tmp_path_factory.mktemp("model")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    tokenizer = byte_tokenizer()
    config = AutoConfig.for_model("qwen2", **shape, intermediate_size=24, vocab_size=len(tokenizer))
    config.architectures = ["Qwen2ForCausalLM"]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_it_is_valid_for_verl(name: str, small_model: Path) -> None:
    config = composed(name)
    config.actor_rollout_ref.model.path = str(small_model)
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    ref, actor = config.actor_rollout_ref.ref, config.actor_rollout_ref.actor
    for part in (actor, config.actor_rollout_ref.rollout, config.actor_rollout_ref.model):
        omega_conf_to_dataclass(part)
    with open_dict(ref):  # as verl's worker does before it makes the settings of the reference
        ref.ppo_mini_batch_size = actor.ppo_mini_batch_size
        ref.ppo_micro_batch_size = ref.pop("log_prob_micro_batch_size")
        ref.ppo_micro_batch_size_per_gpu = ref.pop("log_prob_micro_batch_size_per_gpu")
        ref.use_dynamic_bsz = ref.pop("log_prob_use_dynamic_bsz")
        ref.ppo_max_token_len_per_gpu = ref.pop("log_prob_max_token_len_per_gpu")
    omega_conf_to_dataclass(ref)
    method = name.split("_", 1)[1]
    assert (need_reference_policy(config), need_critic(config)) == (method in ("grpo", "ppo"), method == "ppo")


@pytest.mark.parametrize("name", NAMES)
def test_it_passes_the_checks_before_a_run(name: str) -> None:
    config = composed(name)
    assert problems(config, files=False, environment={}) == []
    assert is_observed(config)
    record = read_record(config.actor_rollout_ref.actor.fsdp_config.record)
    assert (str(record.out), record.spec.tokens) == (f"runs/{name}", 1 / 64)
    assert record.label == name.split("_", 1)[1].replace("_", "-").upper()


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_samples_as_the_paper_does(name: str, small_model: Path) -> None:
    config = composed(name)
    config.actor_rollout_ref.model.path = str(small_model)
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    assert problems(config, files=False, environment={}) == []
    kwargs = config.actor_rollout_ref.rollout.val_kwargs
    sampled = (kwargs.n, kwargs.temperature, kwargs.top_p, kwargs.top_k, config.data.max_response_length)
    assert sampled == EVALUATIONS[name]
    assert (kwargs.do_sample, config.trainer.val_only, config.trainer.val_before_train) == (True, True, True)
    assert (need_critic(config), need_reference_policy(config), is_observed(config)) == (False, False, False)
    most = config.transfer_queue.backend.SimpleStorage.total_storage_size
    assert config.data.val_batch_size * (kwargs.n + 1) <= most


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_are_those_of_the_paper(name: str) -> None:
    config = composed(name)
    model, method = name.split("_", 1)
    sampler = "DroppedRows" if method in ("psr", "nsr") else None
    actor, rollout, trainer = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout, config.trainer
    same: dict[str, Any] = {
        "prompts": config.data.train_batch_size == 1024,
        "rollouts": rollout.n == 8,
        "lengths": (config.data.max_prompt_length, config.data.max_response_length) == (1024, MODELS[model]),
        "context": rollout.max_model_len == 1024 + MODELS[model],
        "a row fits": actor.ppo_max_token_len_per_gpu >= 1024 + MODELS[model],
        "minibatch": actor.ppo_mini_batch_size == 256 and actor.ppo_epochs == 1,
        "temperature": (rollout.temperature, rollout.top_p, rollout.top_k) == (1.0, 1, -1),
        "learning rate": (actor.optim.lr, actor.optim.lr_scheduler_type) == (1e-6, "constant"),
        "gradient norm": actor.optim.clip_grad == 1.0,
        "clip": (actor.clip_ratio, actor.clip_ratio_low, actor.clip_ratio_high) == (0.2, 0.2, 0.2),
        "no dual clip": actor.clip_ratio_c >= 1e6,
        "entropy": actor.entropy_coeff == 1e-3,
        "steps": trainer.total_epochs * (7500 // config.data.train_batch_size) == 140,
        "trainer": trainer.use_v1 and trainer.v1.trainer_mode == "sync" and actor.strategy == "fsdp",
        "engine": config.actor_rollout_ref.model.external_lib == "analysis.engines.verl",
        "KL in the loss": actor.use_kl_loss == (method == "grpo"),
        "KL in the reward": config.algorithm.use_kl_in_reward == (method == "ppo"),
        "KL coefficient": actor.kl_loss_coef == config.algorithm.kl_ctrl.kl_coef == 1e-3,
        "estimator": config.algorithm.adv_estimator == ("gae" if method == "ppo" else method),
        "lambda": config.algorithm.get("rlvr_lambda") == (0.1 if method == "w_reinforce" else None),
        "sampler": config.trainer.v1.sampler.custom_sampler.name == sampler,
    }  # fmt: skip
    assert [key for key, holds in same.items() if not holds] == []
    if method == "ppo":
        critic = config.critic
        assert (critic.optim.lr, critic.model.path) == (1e-5, config.actor_rollout_ref.model.path)
        assert critic.ppo_max_token_len_per_gpu >= 1024 + MODELS[model]


@pytest.mark.parametrize("model", MODELS)
def test_the_prompt_is_that_of_the_fork(model: str) -> None:
    """Rendered as the tokenizer renders it, with the message that prepare_data.py writes."""
    from transformers.utils.chat_template_utils import render_jinja_template

    template = composed(f"{model}_psr").actor_rollout_ref.model.custom_chat_template
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": ASKED}]
    rendered, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True)
    assert rendered == [TEMPLATES[model]]


@pytest.mark.parametrize("model", MODELS)
def test_verl_reads_the_prepared_data(model: str, small_model: Path, tmp_path: Path) -> None:
    """Through verl's own data set, with the tokenizer and the template of the configuration."""
    rows = tmp_path / "rows.jsonl"
    long = {"problem": "x" * 2000, "answer": "1"}  # with a token for each byte; left out
    rows.write_text("".join(json.dumps(row) + "\n" for row in ({"problem": QUESTION, "answer": "2"}, long)))
    command = [sys.executable, str(FOLDER / "prepare_data.py"), str(rows), "--out", str(tmp_path / "train.parquet")]
    subprocess.run([*command, "--no-check"], check=True, cwd=ROOT)
    config = composed(f"{model}_psr", f"actor_rollout_ref.model.path={small_model}", f"+data.cache_dir={tmp_path}")
    tokenizer = omega_conf_to_dataclass(config.actor_rollout_ref.model).tokenizer
    data = RLHFDataset([str(tmp_path / "train.parquet")], tokenizer, config.data)
    assert len(data) == 1
    ids = tokenizer.apply_chat_template(data[0]["raw_prompt"], add_generation_prompt=True, return_dict=False)
    assert tokenizer.decode(ids) == TEMPLATES[model]
    assert data[0]["reward_model"] == {"ground_truth": "2", "style": "rule"}


def test_the_reward_function_is_found_by_verl() -> None:
    score = get_custom_reward_fn(composed("qwen3-4b_grpo"))
    assert score is not None
    given = {"data_source": "MATH", "ground_truth": r"\frac{1}{2}", "extra_info": {"num_turns": None}}
    assert score(solution_str=r"so \boxed{0.5}", **given) == 1.0
    assert score(solution_str=r"so \boxed{5}", **given) == 0.0


def commands_of_the_page() -> list[list[str]]:
    """The arguments of each `check` and `train` in docs/how_to/full_scale_runs.md."""
    page = (ROOT / "docs/how_to/full_scale_runs.md").read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"python -m analysis\.engines\.verl (?:check|train) (.*)", page)
    shown = [line.replace("$name", "math").replace("@/shared/rlvr-dynamics/", "@") for line in found]
    return [shlex.split(line) for line in shown]


def test_the_commands_of_the_page_pass_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    commands = commands_of_the_page()
    assert len(commands) == 8
    for arguments in {tuple(arguments): None for arguments in commands}:
        overrides = list(arguments)
        for option in ("--out", "--tokens"):
            if option in overrides:
                place = overrides.index(option)
                del overrides[place : place + 2]
        assert problems(compose(overrides), files=False, environment={}) == [], arguments


@pytest.mark.parametrize("method", ["nsr", "ppo"])
def test_one_gpu_and_several_nodes(method: str, small_model: Path) -> None:
    for more in ([f"@{FOLDER / 'settings' / 'one_gpu.txt'}"], ["trainer.nnodes=2"]):
        config = composed(f"qwen2.5-math-7b_{method}", f"actor_rollout_ref.model.path={small_model}", *more)
        validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
        assert problems(config, files=False, environment={}) == []


def test_rows_can_be_kept() -> None:
    keep = f"@{FOLDER / 'settings' / 'keep_rows.txt'}"
    sampler = composed("qwen2.5-math-7b_nsr", keep).trainer.v1.sampler.custom_sampler
    assert (sampler.path, sampler.name) == (None, None)


@pytest.mark.parametrize("key", ["data.train_batch_sizes", "actor_rollout_ref.actor.clip_ratios_c"])
def test_a_key_that_verl_does_not_have_is_refused(key: str, tmp_path: Path) -> None:
    """So that a setting of the files cannot be misspelt: what is written with + is this package's own."""
    (tmp_path / "mine.txt").write_text(f"@{FOLDER / 'qwen3-4b_psr.txt'}\n{key}=1024\n")
    with pytest.raises(UsageError, match="expected keys of verl's configuration"):
        compose([f"@{tmp_path / 'mine.txt'}"])
    added = [line for path in FOLDER.rglob("*.txt") for line in path.read_text().splitlines() if line.startswith("+")]
    assert {line.split("=")[0].rpartition(".")[2] for line in added} == {
        *("rlvr_lambda", "label", "out", "tokens", "VERL_ENGINE_VENDOR")
    }


def test_what_is_resolved_at_the_start_resolves() -> None:
    config = composed("qwen3-4b_ppo")
    OmegaConf.resolve(config)
    assert config.trainer.validation_data_dir == "checkpoints/rlvr-dynamics/qwen3-4b_ppo/validation"
    assert config.critic.model.path == "Qwen/Qwen3-4B"
