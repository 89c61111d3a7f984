"""Tracing recorded rollouts: each goes through the model once, and the records are those of the training loop.

Windows of rollouts are committed as they are finished, in the file's order, so that a trace that was killed is resumed
after the last of them. Which rollouts share a batch changes nothing but rounding. Where torch.distributed has a default
process group, its processes share the work (`rounds`).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from toy_models.end_tokens import end_tokens
from toy_models.verifiers import Verifier

from ..common.folder_lock import locked
from ..common.identity import changed_parts
from ..common.provenance import machine_info, weights_hash
from ..errors import UsageError
from ..objectives import Objective, objective_text
from ..probes.output_heads import OutputHead, find_head, unwrap
from ..probes.process_ranks import process_ranks
from ..records import Run, RunWriter
from ..records.folders import TOKENIZER_FILE, make_folder
from ..records.ranks import Ranks
from .forward import Forward
from .objective_requirements import check_inputs_of, parse_objectives
from .reading import RolloutFile, read_rollouts
from .reward_source import verifier_of
from .rounds import trace_rounds
from .shares import of_share, parse_share
from .tokenization import WARNING, Encoded, ModelLimits, encode_rollouts
from .trace_folder import ENGINE, finished, remember
from .trace_identity import identity_digest, trace_identity
from .trace_notes import file_facts, reward_scheme
from .trace_settings import TraceSettings, check_batch_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["trace_rollouts"]

BATCH_TOKENS = 8192


def trace_rollouts(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rollouts: str | Path | Sequence[Mapping[str, Any]] | Any,
    *,
    out: str | Path,
    objectives: Sequence[str | Objective] = (),
    columns: Mapping[str, Any] | None = None,
    format: str | None = None,
    resume: bool = False,
    force: bool = False,
    chat_template: bool | str = False,
    template_arguments: Mapping[str, Any] | None = None,
    new_turn: bool = False,
    bos: bool = False,
    eos: bool = False,
    responses_apart: bool = False,
    temperature: float = 1.0,
    threshold: float | None = None,
    rewarded_above: float | None = None,
    on_policy: bool = False,
    verifier: str | None = None,
    workers: int = 1,
    skip_bad: bool = False,
    top_k: int = 8,
    record_columns: str = "full",
    record_tokens: float = 1.0,
    share: str | None = None,
    batch_tokens: int = BATCH_TOKENS,
    label: str | None = None,
    quiet: bool = True,
) -> Run:
    """Trace recorded rollouts under a causal language model into a run folder.

    Each rollout goes through the model once, without gradients. The tables prompts, rollouts and tokens are recorded;
    tokens have the update −1 and no weight. Where torch.distributed has a default process group, every process calls
    this with the same arguments and a model of its own; each traces a share, and all write one folder.

    Args:
        model: A Hugging Face causal language model.
        tokenizer: The tokenizer that it was trained with.
        rollouts: What `read_rollouts` takes (a file, a list of dicts, a table in memory), or what it gave.
        out: The run folder.
        objectives: Objectives that the summary shows; their inputs are checked. Any other can be used later with
            `run.laws(objective)`.
        columns: Role -> column, for columns of other names than those of `analysis.offline.COLUMNS`; a sum for the
            reward, "2*accuracy + format"; "-" for a role that has none.
        format: The key of the rollouts' layout, see `read_rollouts`.
        resume: Resume an unfinished trace.
        force: Delete the trace in the folder and start anew.
        chat_template: Put prompts into the tokenizer's chat template; the name of one where it has several.
        template_arguments: Variables of the template, such as {"enable_thinking": False}.
        new_turn: An assistant's message at the end of a prompt is complete: close its turn and open a new one. By
            default the response continues it.
        bos: Begin each prompt with the tokenizer's start token, unless the template has written it.
        eos: End each response with the tokenizer's end token, unless it ends with one of the model's.
        responses_apart: Read each response as a text of its own, with the space that some tokenizers put before a text.
            By default it continues its prompt.
        temperature: T of softmax(logits / T) in every statistic.
        threshold: A reward above it counts as 1, any other as 0.
        rewarded_above: Tables call a response rewarded where its reward is above this; unset, the scheme of the rewards
            decides (0.5 for 0 and 1, 0 for ±1, −0.5 for −1 and 0), and the summary says what it is. No reward moves.
        on_policy: The model itself sampled the rollouts: its log-probs are the old ones, ratios are 1.
        verifier: Judge responses by the column of answers instead of reading rewards.
        workers: Processes of the verifier "math".
        skip_bad: Leave rows out that cannot be used, and count them in run.json.
        top_k: How many of the most probable tokens are recorded.
        record_columns: "core" leaves ranks, buckets and top tokens out: a third of the size, and less time.
        record_tokens: Fraction of the prompts whose tokens are recorded, drawn by a hash of prompt and step. The others
            cost no pass; their rollouts are recorded without tokens.
        share: Trace one share of the file's groups, "0/16" to "15/16", for programs that know nothing of each other;
            each needs a folder of its own.
        batch_tokens: Tokens that go through the model together, padding counted; halved where memory runs out.
        label: Name in tables and figures; by default that of the model's folder.
        quiet: Show no progress on stderr.

    Returns:
        The run, as `load_trace` gives it. A complete trace of the same model, file and settings is returned as it is.

    Raises:
        UsageError: Rollouts that cannot be read or encoded, an objective whose inputs are missing, or a folder that
            holds something else.
        InterruptedRunError: The folder holds an unfinished trace, and `resume` is not set.
        KeyboardInterrupt: Ctrl-C or SIGTERM; what was traced is committed first. A second one stops at once.

    Example:
        >>> run = trace_rollouts(model, tokenizer, "rollouts.jsonl", out="runs/mine")  # doctest: +SKIP
    """
    if share is not None:
        parse_share(share)
    settings = TraceSettings(
        {},
        chat_template,
        eos,
        temperature,
        threshold,
        on_policy,
        verifier,
        skip_bad,
        top_k,
        template_arguments=dict(template_arguments or {}),
        new_turn=new_turn,
        bos=bos,
        responses_apart=responses_apart,
        record_columns=record_columns,
        record_tokens=record_tokens,
        share=share,
    )
    check_batch_tokens(batch_tokens)
    ranks, folder = process_ranks(), Path(out)

    def prepare() -> _Prepared:
        judge = verifier_of(verifier, workers)
        file = (
            rollouts
            if isinstance(rollouts, RolloutFile)
            else read_rollouts(
                rollouts, columns=columns, with_answers=judge is not None, skip_bad=skip_bad, format=format
            )
        )
        return _prepared(model, tokenizer, file, settings, judge, objectives, rewarded_above, folder, label)

    todo = ranks.here(prepare)
    _check_same(ranks, todo.info["trace"]["identity"])
    with contextlib.ExitStack() as lock:
        done = ranks.agree(lambda: not ranks.rank and _is_done(folder, todo.info, lock, resume=resume, force=force))
        if not any(done):
            for note in todo.info["trace"]["notes"] if not ranks.rank else ():
                if note.startswith(WARNING):
                    warnings.warn(f"trace: {note.removeprefix(WARNING)}", stacklevel=2)
            forward = Forward(model, todo.head, todo.settings, batch_tokens)
            _trace(folder, todo, ranks, forward, tokenizer, resume=resume, quiet=quiet)
    return Run(folder)


@dataclass(frozen=True)
class _Prepared:
    """A trace that can begin; `info` is its run.json."""

    items: Sequence[Encoded]
    settings: TraceSettings
    judge: Verifier | None
    head: OutputHead
    info: dict[str, Any]


def _prepared(
    model: Any,
    tokenizer: Any,
    file: RolloutFile,
    settings: TraceSettings,
    judge: Verifier | None,
    objectives: Sequence[str | Objective],
    rewarded_above: float | None,
    folder: Path,
    label: str | None,
) -> _Prepared:
    """Encode the rollouts and check all that can be checked before anything is written."""
    named = parse_objectives([objective_text(objective) for objective in objectives])
    settings = replace(settings, columns=file.columns)
    head = find_head(model)  # refuses what it does not know before anything is written
    limits = ModelLimits.of(model)
    ends, notes = end_tokens(tokenizer, unwrap(model)), list[str]()
    items = encode_rollouts(
        *(file.rollouts, tokenizer, limits, settings, file.columns, file.bad),
        ends=ends,
        notes=notes,
        inexact=file.inexact,
    )
    check_inputs_of(named, items, settings, file)
    scheme = reward_scheme(items, settings, rewarded_above)
    if settings.share is not None:
        number, count = parse_share(settings.share)
        whole, items = len(items), of_share(items, number, count)
        notes.append(f"Share {number} of {count} (from 0): {len(items):,} of {whole:,} rollouts, in whole groups.")
    info = _run_json(model, file, settings, judge, folder, label)
    identity = trace_identity(model, tokenizer, file, items, settings, judge, weights=info["base_sha256"], ends=ends)
    info["hash"] = identity_digest(identity)
    info["trace"] = asdict(settings) | {
        "objectives": list(named),
        "rollouts": len(items),
        "rewarded_above": None if scheme is None else scheme.rewarded_above,
        "file": file_facts(file, items, named, settings, scheme),
        "vocab": limits.vocab,
        "skipped": file.bad.counts,
        "skipped_examples": file.bad.examples,
        "end_tokens": {str(tokenizer.convert_ids_to_tokens(i)): i for i in ends},
        "notes": notes,
        "identity": identity,
    }
    return _Prepared(items, settings, judge, head, info)


def _check_same(ranks: Ranks, identity: Mapping[str, str]) -> None:
    """UsageError where processes that trace together were given different things."""
    first, *others = ranks.all(dict(identity))
    for rank, other in enumerate(others, 1):
        if other != first:
            raise UsageError(
                f"expected the same model, file and settings on every process, got others on rank {rank} than on rank "
                f"0; what differs: {'; '.join(changed_parts(first, other))}. Give all of them the same"
            )


def _is_done(folder: Path, info: Mapping[str, Any], lock: contextlib.ExitStack, *, resume: bool, force: bool) -> bool:
    """Take the folder until `lock` is closed; whether it holds the complete trace already."""
    make_folder(folder)
    lock.enter_context(locked(folder))
    if (done := finished(folder, info, resume=resume, force=force)) is None:
        return False
    if _described(done.info) != _described(info):
        remember(folder, info["trace"], info["label"])
    return True


def _trace(
    folder: Path, todo: _Prepared, ranks: Ranks, forward: Forward, tokenizer: Any, *, resume: bool, quiet: bool
) -> None:
    trace = todo.info["trace"]
    writer = RunWriter(folder, run_json=todo.info, resume=resume, ranks=ranks)
    writer.update_run_json(trace=trace)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and not ranks.rank:  # for tables of token texts
        backend.save(str(folder / TOKENIZER_FILE))
    quiet = quiet or ranks.rank > 0
    trace_rounds(writer, ranks, trace, forward, todo.items, todo.settings, todo.judge, quiet=quiet)


def _described(info: Mapping[str, Any]) -> list[Any]:
    """What a complete trace says of itself beside its records: it may be asked for again with other words."""
    return [info["label"], *(info["trace"].get(name) for name in ("objectives", "rewarded_above", "file"))]


def _run_json(
    model: Any,
    file: RolloutFile,
    settings: TraceSettings,
    judge: Verifier | None,
    folder: Path,
    label: str | None,
) -> dict[str, Any]:
    """Fields of run.json."""
    made_with = machine_info()
    inner: Any = unwrap(model)
    base, dtype = weights_hash(model), str(inner.dtype).removeprefix("torch.")
    verifier = judge.identity if judge is not None else None
    name = Path(str(getattr(inner.config, "_name_or_path", "") or "")).name
    return {
        "run_id": folder.absolute().name,
        "label": label or name or type(inner).__name__,
        "engine": ENGINE,
        "recipe": None,
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
        "record": {
            "tokens": settings.record_tokens,
            "columns": settings.record_columns,
            "top_k": settings.top_k if settings.record_columns == "full" else 0,
        },
    }
