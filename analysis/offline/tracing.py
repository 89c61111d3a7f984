"""Tracing recorded rollouts: each goes through the model once, and what the training loop records of it is recorded.

Windows of rollouts are committed as they are done, in the file's order, so that what was traced before a kill stays and
the trace goes on from there. Which rollouts share a batch changes nothing but rounding.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from toy_models.policy import evaluation_mode
from toy_models.verifiers import Case, Verifier, VerifierError, get_verifier

from ..errors import InterruptedRunError, UsageError
from ..objectives import Objective, objective_text
from ..recording import Run, RunWriter, read_run_json
from ..recording.folders import RUN_FILE
from ..training.given import weights_hash
from ..training.machine import machine_info
from ..training.pool import StopRequests
from .batches import windows
from .forward import Forward
from .progress import TokenProgress
from .reading import BadRows, RolloutFile, read_rollouts
from .rows import prompt_rows, rollout_rows, token_rows
from .settings import TraceSettings
from .tokens import Encoded, ModelLimits, encode_rollouts
from .wanted import check_objectives

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["trace_rollouts"]

ENGINE = "offline"
TOKENIZER_FILE = "tokenizer.json"
BATCH_TOKENS = 8192
_COMMIT_SECONDS = 10.0


def trace_rollouts(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rollouts: str | Path | Sequence[Mapping[str, Any]] | Any,
    *,
    out: str | Path,
    objectives: Sequence[str | Objective] = (),
    columns: Mapping[str, str] | None = None,
    resume: bool = False,
    force: bool = False,
    chat_template: bool = False,
    eos: bool = False,
    temperature: float = 1.0,
    threshold: float | None = None,
    on_policy: bool = False,
    verifier: str | None = None,
    workers: int = 1,
    skip_bad: bool = False,
    top_k: int = 8,
    batch_tokens: int = BATCH_TOKENS,
    label: str | None = None,
    quiet: bool = True,
) -> Run:
    """Trace recorded rollouts under a causal language model into the run folder `out`; the run, as `load_trace` has it.

    `rollouts` is a JSON Lines or Parquet file, a list of dicts or a data frame; which columns are known, and `columns`
    for others: `offline.columns`. Records: prompts, rollouts and, of every response token, tokens with update −1 and no
    weight. `objectives` are remembered for the summary, after a check that their inputs are there; any other can be
    asked for later with `run.laws(objective)`.

    chat_template, eos     put prompts into the tokenizer's template; end each response with its end token
    temperature            T of softmax(logits / T) in every statistic
    threshold              rewards above it count as 1, others as 0
    on_policy              the model itself sampled the rollouts: its log-probs are the old ones, ratios are 1
    verifier, workers      judge responses by the column of answers instead of reading rewards; processes of "math"
    skip_bad               leave rows out that cannot be used, and count them in run.json
    batch_tokens           tokens that go through the model together, padding counted; halved where memory runs out
    resume, force          go on with an unfinished trace; delete one and start anew
    label                  name in tables and figures (default: that of the model's folder)

    A complete trace of the same model, file and settings is returned as it is. Cost: one forward pass over each rollout
    without gradients. Raises UsageError for what the modules `reading` and `tokens` refuse, for an objective whose
    inputs are missing and for a folder that holds something else; InterruptedRunError for an unfinished trace without
    `resume`; KeyboardInterrupt after Ctrl-C or SIGTERM, when all that was traced is committed.
    """
    wanted = [objective_text(one) for one in objectives]
    given = TraceSettings({}, chat_template, eos, temperature, threshold, on_policy, verifier, skip_bad, top_k)
    if batch_tokens < 1:
        raise UsageError(f"batch_tokens: expected at least 1, got {batch_tokens}")
    bad = BadRows(skip_bad, str(rollouts) if isinstance(rollouts, str | Path) else "rollouts")
    judge = _verifier(verifier, workers)
    file = read_rollouts(rollouts, columns=columns, with_answers=judge is not None, bad=bad)
    settings = TraceSettings(**asdict(given) | {"columns": file.columns})
    limits = ModelLimits.of(model)
    items = encode_rollouts(file.rollouts, tokenizer, limits, settings, file.columns, bad)
    _check_wanted(wanted, items, settings, file)
    folder = Path(out)
    info = _identity(model, tokenizer, file, settings, judge, folder, label)
    info["trace"] = asdict(settings) | {
        "objectives": wanted, "rollouts": len(items), "vocab": limits.vocab, "skipped": bad.counts,
        "skipped_examples": bad.examples,
    }
    with _locked(folder):
        if (done := _finished(folder, info, resume=resume, force=force)) is None:
            _trace(folder, info, model, tokenizer, items, settings, judge, resume=resume, budget=batch_tokens,
                   quiet=quiet)
        elif done.info["trace"]["objectives"] != wanted:
            _remember(folder, info["trace"])
    return Run(folder)


def _trace(
    folder: Path, info: Mapping[str, Any], model: Any, tokenizer: Any, items: list[Encoded], settings: TraceSettings,
    judge: Verifier | None, *, resume: bool, budget: int, quiet: bool,
) -> None:  # fmt: skip
    writer = RunWriter(folder, run_json=info, resume=resume)
    writer.update_run_json(trace=info["trace"])
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # for tables of token texts
        backend.save(str(folder / TOKENIZER_FILE))
    start = writer.committed_step or 0
    total, before = (sum(item.length for item in some) for some in (items, items[:start]))
    seen = {item.prompt_id for item in items[:start]}
    state = {"status": "interrupted"}
    with (
        StopRequests() as requests, evaluation_mode(model), torch.no_grad(),
        TokenProgress(total, before, quiet=quiet) as progress, _settled(writer, state),
    ):
        requests.interrupt = False
        forward = Forward(model, settings, budget, progress.say)
        committed, pending = time.monotonic(), start
        for end, window in windows(items, start, budget):
            judged = _judge(window, tokenizer, judge, settings)
            columns = forward(window, progress.advance, lambda: requests.count > 0)
            if columns is None:
                break
            new = list({item.prompt_id: item for item in window if item.prompt_id not in seen}.values())
            seen |= {item.prompt_id for item in new}
            if new:
                writer.append("prompts", prompt_rows(new))
            writer.append("rollouts", rollout_rows(window, judged))
            writer.append("tokens", token_rows(window, columns, on_policy=settings.on_policy))
            pending = end
            if end == len(items) or time.monotonic() - committed > _COMMIT_SECONDS:
                writer.commit(end, {"rollouts": end})
                committed = time.monotonic()
        if pending > (writer.committed_step or 0):
            writer.commit(pending, {"rollouts": pending})
        if pending < len(items):
            raise KeyboardInterrupt(f"stopped after {pending:,} of {len(items):,} rollouts; the same command with "
                                    "--resume goes on")
        state["status"] = "complete"


@contextlib.contextmanager
def _settled(writer: RunWriter, state: Mapping[str, str]) -> Iterator[None]:
    """The run's final status is written down, whatever ended it."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            writer.finish("interrupted")
        raise
    writer.finish(state["status"])


def _verifier(name: str | None, workers: int) -> Verifier | None:
    if name is None:
        return None
    try:
        return get_verifier(name, workers=workers)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _judge(window: Sequence[Encoded], tokenizer: Any, judge: Verifier | None, settings: TraceSettings) -> list[Any]:
    """(reward, correct, reason) of each rollout; None for what is not known."""
    if judge is None:
        return [_from_file(item.rollout.reward, settings.threshold) for item in window]
    cases = []
    for item in window:
        text = item.response_text
        if item.rollout.response_ids is not None:
            text = str(tokenizer.decode(item.response.tolist(), skip_special_tokens=True))
        assert item.rollout.answer is not None
        cases.append(Case(item.question, text, item.rollout.answer, item.finished is not False))
    try:
        return [(float(v.correct), v.correct, v.reason) for v in judge.judge(cases)]
    except VerifierError as error:
        raise UsageError(str(error)) from error


def _from_file(reward: float | None, threshold: float | None) -> tuple[float | None, bool | None, str | None]:
    if reward is None:
        return None, None, None
    if threshold is not None:
        return float(reward > threshold), reward > threshold, f"reward {reward:g} in the file"
    return reward, bool(reward) if reward in (0.0, 1.0) else None, None


def _check_wanted(wanted: list[str], items: list[Encoded], settings: TraceSettings, file: RolloutFile) -> None:
    sizes: dict[tuple[int, int], int] = {}
    for item in items:
        key = item.rollout.step, item.group
        sizes[key] = sizes.get(key, 0) + 1
    single = sum(size == 1 for size in sizes.values())
    rewards = [item.rollout.reward for item in items]
    judged = settings.verifier is not None or settings.threshold is not None
    check_objectives(
        wanted, source=file.source,
        rewards=settings.verifier is not None or None not in rewards,
        old_log_probs=settings.on_policy or all(item.rollout.old_log_probs is not None for item in items),
        verdicts=judged or all(reward in (0.0, 1.0) for reward in rewards),
        singles=f"{single} of {len(sizes)} groups in {file.source} have one response only" if single else None,
    )  # fmt: skip


def _identity(
    model: Any, tokenizer: Any, file: RolloutFile, settings: TraceSettings, judge: Verifier | None, folder: Path,
    label: str | None,
) -> dict[str, Any]:  # fmt: skip
    """Fields of run.json."""
    made_with = machine_info()
    base, dtype = weights_hash(model), str(model.dtype).removeprefix("torch.")
    verifier = judge.identity if judge is not None else None
    name = Path(str(getattr(model.config, "_name_or_path", "") or "")).name
    return {
        "run_id": folder.absolute().name,
        "label": label or name or type(model).__name__,
        "engine": ENGINE,
        "recipe": None,
        "hash": settings.identity(base=base, rollouts=file.sha256, dtype=dtype, verifier=verifier,
                                  tokens=sorted(tokenizer.get_vocab().items())),
        "seed": None,
        "temperature": settings.temperature,
        "inputs": {"rollouts": {"path": str(file.path.resolve()) if file.path else None, "sha256": file.sha256}},
        "verifier": verifier,
        "base_sha256": base,
        "versions": made_with["versions"],
        "git_commit": made_with["commit"],
        "machine": made_with["machine"],
        "threads": torch.get_num_threads(),
        "device": str(next(model.parameters()).device),
        "dtype": dtype,
        "record": {"tokens": 1.0, "columns": "full", "top_k": settings.top_k},
    }


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    from ..recording.folders import make_folder

    make_folder(folder)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"out: another process writes {folder}; wait for it or stop it") from None
    try:
        yield
    finally:
        lock.release()


def _finished(folder: Path, info: Mapping[str, Any], *, resume: bool, force: bool) -> Run | None:
    """The complete trace of the same things that the folder holds, None where there is something to do."""
    if (folder / "experiment.json").exists():
        raise UsageError(f"out: {folder} holds an experiment; choose another folder")
    if not (folder / RUN_FILE).exists():
        others = [path.name for path in folder.iterdir() if path.name != ".lock"]
        if others:
            raise UsageError(f"out: {folder} holds something that is no trace ({min(others)}); choose another folder")
        return None
    known = read_run_json(folder)
    if known["engine"] != ENGINE:
        raise UsageError(f"out: {folder} holds a run of the engine {known['engine']}; choose another folder")
    if force:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != ".lock":
                path.unlink()
        return None
    if known["hash"] != info["hash"]:
        raise UsageError(f"out: {folder} holds a trace of another model, file or settings; choose another folder, or "
                         "delete it with force (--force)")
    if known["status"] == "complete":
        return Run(folder)
    if not resume:
        raise InterruptedRunError(f"out: {folder} holds an unfinished trace of the same rollouts; go on with resume "
                                  "(--resume), or start anew with force (--force)")
    return None


def _remember(folder: Path, trace: Mapping[str, Any]) -> None:
    from ..recording.folders import write_json

    write_json(folder / RUN_FILE, read_run_json(folder) | {"trace": dict(trace)})
