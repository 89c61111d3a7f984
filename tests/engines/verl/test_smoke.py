"""Whole runs of verl on a CPU: what is sampled is what is recorded, on one rank and two, through kills and stops."""

import json
import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from analysis import load_trace
from analysis.engines.verl.smoke.child import fault
from analysis.engines.verl.smoke.settings import METHODS, MINIBATCH_PROMPTS, PROMPTS, ROLLOUTS, Settings, overrides
from analysis.engines.verl.smoke.summary import pass_at_k, validation_dumps
from analysis.errors import UsageError
from analysis.passk import pass_curves, read_graded
from toy_models.verifiers.math_reward import compute_score

from .smoke_runs import SmokeRun, checkpoint, processes_of, ray_folder, samples, steps_logged

UPDATES_A_STEP = PROMPTS // MINIBATCH_PROMPTS


def recorded(run) -> Counter[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """The rollouts of the records as `samples` gives those of the servers."""
    prompts = {row.prompt_id: tuple(map(int, row.token_ids)) for row in run.table("prompts").itertuples()}
    return Counter(
        (int(row.step), prompts[row.prompt_id], tuple(map(int, row.response_ids)))
        for row in run.table("rollouts").itertuples()
    )


def assert_whole(out: Path, steps: int, ranks: int):
    """Records of all steps, each once and with every update, as complete."""
    run = load_trace(out / "run", verify=True)
    assert run.status == "complete"
    updates = run.table("updates").sort_values("update")
    assert list(updates["update"]) == list(range(steps * UPDATES_A_STEP))
    assert list(updates["step"]) == [step for step in range(steps) for _ in range(UPDATES_A_STEP)]
    assert Counter(run.table("rollouts")["step"]) == dict.fromkeys(range(steps), PROMPTS * ROLLOUTS)
    assert set(run.table("rollouts")["rank"]) == set(range(ranks))
    assert not run.table("tokens").duplicated(["update", "rollout", "position", "step"]).any()
    return run


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    out = tmp_path_factory.mktemp("smoke") / "one"
    run = SmokeRun(out, "--steps", "4")
    run.wait_until(lambda: (out / "metrics-1.jsonl").is_file())
    session = run.trainer()
    folder = ray_folder(session)
    assert folder.is_dir()
    status, output, errors = run.finish()
    assert status == 0, errors
    return {"out": out, "said": output, "left": (processes_of(session), folder.exists())}


@pytest.mark.slow
class TestOneRank:
    """One run of four steps."""

    def test_the_records_are_whole(self, one_rank):
        run = assert_whole(one_rank["out"], steps=4, ranks=1)
        assert run.info["engine"] == "verl"

    def test_the_recorded_ids_are_those_that_the_rollout_server_drew(self, one_rank):
        drawn, kept = samples(one_rank["out"]), recorded(load_trace(one_rank["out"] / "run"))
        assert sum(kept.values()) == 4 * PROMPTS * ROLLOUTS
        assert kept == drawn

    def test_rewards_are_the_verdicts_on_the_texts(self, one_rank):
        run = load_trace(one_rank["out"] / "run")
        answers = dict(zip(run.table("prompts")["prompt_id"], run.table("prompts")["answer"], strict=True))
        rollouts = run.table("rollouts")
        texts = [text.removesuffix("<|im_end|>") for text in rollouts["response_text"]]
        expected = [
            compute_score("sums", text, answers[prompt])
            for text, prompt in zip(texts, rollouts["prompt_id"], strict=True)
        ]
        assert list(rollouts["reward"]) == expected
        assert 0 < sum(expected) < len(expected)
        dumped = [json.loads(line) for path in (one_rank["out"] / "rollouts").glob("*.jsonl") for line in path.open()]
        assert Counter((row["input"], row["score"]) for row in dumped) == Counter(
            (run.table("prompts").set_index("prompt_id")["text"][prompt], reward)
            for prompt, reward in zip(rollouts["prompt_id"], rollouts["reward"], strict=True)
        )

    def test_log_probs_of_server_and_trainer_agree(self, one_rank):
        tokens = load_trace(one_rank["out"] / "run").table("tokens")
        # The server draws with a cache, the trainer has padded batches; both are in float32, whose rounding in the
        # layers grows with the logits. In one run the largest of 749 differences was 5.4e-6.
        np.testing.assert_allclose(tokens["sampling_log_prob"], tokens["old_log_prob"], atol=2e-5)
        first = tokens[tokens["update"] % UPDATES_A_STEP == 0]
        np.testing.assert_allclose(first["log_prob"], first["old_log_prob"], atol=5e-6)

    def test_pass_at_k_from_the_validation_dumps(self, one_rank):
        dumps = validation_dumps(one_rank["out"] / "validation")
        assert [path.stem for path in dumps] == ["0", "2", "4"]
        rows = [json.loads(line) for line in dumps[-1].open()]
        correct = Counter(row["input"] for row in rows if row["score"] == 1)
        prompts = {row["input"] for row in rows}
        assert len(rows) == 8 * len(prompts) == 8 * 32
        table = pass_curves(read_graded(dumps[-1])).table.set_index("k")
        assert table["value"][1] == pytest.approx(sum(correct.values()) / len(rows))
        assert table["value"][8] == pytest.approx(len(correct) / len(prompts))
        assert f"{table['value'][8]:.3f}" in one_rank["said"]

    def test_the_page_is_written_and_named(self, one_rank):
        page = one_rank["out"] / "run" / "report.html"
        assert page.stat().st_size > 10_000
        assert str(page) in one_rank["said"]
        assert "run complete" in one_rank["said"]

    def test_nothing_of_ray_is_left(self, one_rank):
        assert one_rank["left"] == ([], False)

    def test_a_finished_run_is_shown_again_without_training(self, one_rank):
        status, output, errors = SmokeRun(one_rank["out"], "--steps", "4").finish()
        assert status == 0, errors
        assert output == one_rank["said"]
        assert not (one_rank["out"] / "metrics-2.jsonl").exists()


@pytest.mark.slow
def test_two_ranks_stopped_by_ctrl_c_and_resumed(tmp_path):
    out = tmp_path / "two"
    run = SmokeRun(out, "--steps", "4", "--ranks", "2", "--method", "nsr")
    run.wait_until(lambda: checkpoint(out) == 2 and 2 in steps_logged(out))
    session = run.trainer()
    run.process.send_signal(signal.SIGINT)
    status, _, errors = run.finish()
    assert (status, processes_of(session)) == (130, [])
    assert "resume with" in errors
    assert load_trace(out / "run", verify=True).status == "interrupted"
    status, _, errors = SmokeRun(out, "--steps", "4", "--ranks", "2", "--method", "nsr").finish()
    assert status == 0, errors
    kept = recorded(assert_whole(out, steps=4, ranks=2))
    assert kept <= samples(out)  # a step that was stopped is drawn again


@pytest.mark.slow
def test_a_run_that_is_killed_after_a_checkpoint_goes_on_from_it(tmp_path):
    out = tmp_path / "killed"
    run = SmokeRun(out, "--steps", "4", "--method", "grpo")
    run.wait_until(lambda: 3 in steps_logged(out))
    session = run.trainer()
    for number in processes_of(session):  # Ray and all its workers, at once
        os.kill(number, signal.SIGKILL)
    status, _, errors = run.finish()
    assert status == 1
    assert "verl ended with status -9" in errors
    committed = load_trace(out / "run", verify=True)
    assert set(committed.table("updates")["step"]) >= {0, 1}
    status, _, errors = SmokeRun(out, "--steps", "4", "--method", "grpo").finish()
    assert status == 0, errors
    assert steps_logged(out, 2) == [2, 3, 4]
    kept = recorded(assert_whole(out, steps=4, ranks=1))
    # One server draws the same again from the same weights, so the step that was lost is in the dump twice.
    assert set(kept) == set(samples(out))


@pytest.mark.slow
def test_an_unsupported_setting_is_one_message_before_rollouts(tmp_path):
    out = tmp_path / "refused"
    status, output, errors = SmokeRun(out, "algorithm.adv_estimator=ps").finish()
    assert (status, output) == (2, "")
    (message,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "algorithm.adv_estimator" in errors
    assert "Traceback" not in errors
    assert message
    assert not (out / "samples").exists()
    assert not (out / "run").exists()


def test_settings_are_checked(tmp_path):
    with pytest.raises(UsageError, match="--method: expected one of grpo, psr, nsr, w-reinforce, got 'ppo'"):
        Settings(tmp_path, method="ppo")
    with pytest.raises(UsageError, match="--ranks: expected a divisor of the 16 rows of a minibatch, got 3"):
        Settings(tmp_path, ranks=3)
    with pytest.raises(UsageError, match="--steps: expected a whole number of at least 1, got 0"):
        Settings(tmp_path, steps=0)


def test_pass_at_k_of_the_validations_that_there_were(tmp_path):
    settings = Settings(tmp_path)
    assert pass_at_k(settings) == ""
    settings.validation.mkdir()
    rows = [{"input": f"{prompt} + 1 =", "score": float(draw)} for prompt in range(4) for draw in range(2)]
    for step in (0, 10, 2):
        lines = [json.dumps({**row, "step": step}) for row in rows]
        (settings.validation / f"{step}.jsonl").write_text("\n".join(lines) + "\n")
    assert [path.stem for path in validation_dumps(settings.validation)] == ["0", "2", "10"]
    said = pass_at_k(settings)
    assert "10.jsonl − 0.jsonl" in said
    assert "0.500" in said


def test_a_folder_belongs_to_one_run(tmp_path):
    settings = Settings(tmp_path / "run", seed=1)
    assert not settings.claim()
    assert settings.claim()
    assert not Settings(tmp_path / "run", seed=3).claim()  # nothing was trained yet, as after a refusal
    assert not settings.claim()
    settings.records.mkdir()
    with pytest.raises(UsageError, match="expected a new folder or one of a run with these settings"):
        Settings(tmp_path / "run", seed=2).claim()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(UsageError, match="other, which holds other files"):
        Settings(tmp_path / "other").claim()


@pytest.mark.parametrize("method", METHODS)
def test_the_configuration_of_each_method_composes(method, tmp_path):
    from analysis.engines.verl.configuration.composition import compose
    from analysis.engines.verl.configuration.unread_keys import unread_keys

    settings = Settings(tmp_path, method=method, ranks=2)
    config = compose(overrides(settings, (tmp_path / "a.parquet", tmp_path / "b.parquet"), tmp_path, Path("/tmp/ray")))
    assert config.trainer.n_gpus_per_node == config.ray_kwargs.ray_init.num_gpus == 2
    assert config.actor_rollout_ref.rollout.name == "sample"
    assert config.trainer.total_training_steps * UPDATES_A_STEP == settings.updates
    assert unread_keys(config) == []


WORKER = "\x1b[36m(AgentLoopWorkerTQ pid=7)\x1b[0m "
OTHER = "\x1b[36m(TaskRunnerV1 pid=8)\x1b[0m "
HEAD = "Traceback (most recent call last):"


def test_the_first_error_of_a_worker_is_shown_before_that_of_the_trainer():
    log = "\n".join(
        [
            f"{OTHER}step:0",
            f"{WORKER}ERROR: in a rollout",
            f"{WORKER}{HEAD}",
            f'{WORKER}  File "a.py", line 1',
            f"{OTHER}waits",
            f"{WORKER}RayTaskError: of another worker",
            f'{WORKER}  File "c.py", line 3',
            f"{WORKER}KeyError: 'a'",
            f"{WORKER}and more",
            f"{WORKER}{HEAD}",
            f"{WORKER}KeyError: 'second'",
            HEAD,
            '  File "b.py", line 2',
            "RuntimeError: no rollouts",
        ]
    )
    nested = ["RayTaskError: of another worker", '  File "c.py", line 3', "KeyError: 'a'"]
    worker = [HEAD, '  File "a.py", line 1', *nested]
    assert fault(log).splitlines() == [*worker, HEAD, '  File "b.py", line 2', "RuntimeError: no rollouts"]


def test_a_refusal_is_shown_alone():
    assert (
        fault(f"{HEAD}\nValueError: x\nerror: expected a, got b\nmore of it") == "error: expected a, got b\nmore of it"
    )


def test_a_log_without_an_error_shows_its_end():
    assert fault("\n".join(map(str, range(30)))).splitlines() == [str(number) for number in range(10, 30)]
