"""The process of one run: reads a job from its standard input, trains, and reports to its parent.

It is started through `toy_models.child_process`. Its input is one line of JSON (`pool.Job.to_json`), then perhaps a
line with "stop": end after the present step. The input stays open as long as the parent lives; its end means that the
parent is gone, and so the process leaves at once. What it sends are dicts: `{"event": …}` for progress, and last
`{"status": …}`, or `{"error": …, "kind": …}`. A job that says `kept` is followed by another one on a further line, so
that the libraries are loaded once for many runs; a run that failed or was stopped ends the process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

from toy_models.bases.cache import base_is_cached, ensure_base
from toy_models.bases.recipes import BASES
from toy_models.child_process import Send

from ..recipes.fields import GIVEN
from ..records.folders import FINAL, RUN_FILE, read_run_json
from ..records.shared_storage import ERROR_FILE, RunUpload, SharedFolder, pull_given, pull_run
from .downloads import download_models

__all__ = ["main"]

_LOCK_SECONDS = 60  # what a process of an earlier parent, killed a moment ago, may take to go


def main(send_to_parent: Send) -> None:
    """Run the job on standard input; the exit status is 0 whenever the outcome was reported."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    faulthandler.enable()
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_watch, args=(stop, jobs), daemon=True).start()

    def send(message: dict[str, Any]) -> None:
        try:
            send_to_parent(message)
        except BrokenPipeError:
            _leave()

    kept = True
    while kept:
        job = jobs.get()
        kept = _run(job, stop, send) and job["kept"]


def _run(job: dict[str, Any], stop: threading.Event, send: Send) -> bool:
    """Make one run and report its outcome; whether it came to its end."""
    folder = Path(job["folder"])
    shared = None if job["url"] is None else SharedFolder(job["url"])
    status = "interrupted"
    try:
        with contextlib.suppress(_StoppedError):
            status = _train(job, folder, shared, stop, send)
        send({"status": status})
    except Exception as error:
        text = traceback.format_exc()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "error.txt").write_text(text, encoding="utf-8")
            if shared is not None:
                shared.put(folder / ERROR_FILE, ERROR_FILE)
        except OSError:  # the disk may be what failed; the parent has the message all the same
            sys.stderr.write(text)
        send({"error": str(error) or type(error).__name__, "kind": type(error).__name__})
        return False
    return status in FINAL


class _StoppedError(Exception):
    """The run was asked to stop before it began."""


def _train(job: dict[str, Any], folder: Path, shared: SharedFolder | None, stop: threading.Event, send: Send) -> str:
    from filelock import FileLock, Timeout

    from ..recipes.config import config_from_dict

    config = config_from_dict(job["config"])
    if job["makes_base"]:
        _make_base(config.policy.base, config.policy.seed, stop, send)
        download_models(config, lambda event: send({"event": event}))
    module, _, name = job["train"].partition(":")
    train = getattr(importlib.import_module(module), name)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(config.threads)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=_LOCK_SECONDS):
            resume, upload = job["resume"], None
            if shared is not None:
                if GIVEN in (config.task.name, config.policy.base):
                    pull_given(shared.parent, folder.parent)
                shared.remove(ERROR_FILE)  # of an earlier attempt, as the local one is
                pull_run(shared, folder, to_write=True)
                resume, upload = (folder / RUN_FILE).exists(), RunUpload(shared, folder)
            if resume and (ended := read_run_json(folder).get("status")) in FINAL:
                return str(ended)  # it got there just before its process was lost

            def report(event: dict[str, Any]) -> None:
                if upload is not None:
                    upload()
                send({"event": event})

            status: str = train(
                config,
                folder,
                run_id=job["run_id"],
                label=job["label"],
                resume=resume,
                report=report,
                should_stop=stop.is_set,
            )
            if upload is not None:
                upload()
            return status
    except Timeout:
        raise RuntimeError(f"{folder} is still being written by another process") from None


def _make_base(base: str, seed: int, stop: threading.Event, send: Send) -> None:
    """Pretrain a built-in base that this machine lacks, unless the run is asked to stop."""
    if base not in BASES or base_is_cached(base, seed):
        return
    send({"event": {"phase": "base", "note": f"pretraining {base}"}})

    def progress(*_: object) -> None:
        if stop.is_set():
            raise _StoppedError

    ensure_base(base, seed, progress=progress)


def _watch(stop: threading.Event, jobs: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Read standard input line by line until its end; unbuffered, as a buffer would be locked at exit."""
    data = b""
    while piece := os.read(0, 65536):
        *lines, data = (data + piece).split(b"\n")
        for line in lines:
            value = json.loads(line)
            if value == "stop":
                stop.set()
            else:
                jobs.put(value)
    _leave()


def _leave() -> NoReturn:
    """End at once, with whatever this process has started: the parent is gone."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
