"""The child process of `GymTask`: [index, response] in, the score that the data set gives it out.

An answer is a number, or the name and text of the error that `score_answer` raised. The kernel ends the process
(SIGXCPU) when one score takes more than its limit of processor time.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import resource
import sys
import warnings
from typing import Any

from ..child_process import Send

__all__ = ["main"]

_MEMORY_BYTES = 4 << 30
_SHOWN = 200  # characters of an error


def main(send: Send, data_set: str, config: str, seed: str, size: str, seconds: str) -> None:
    """Answer each pair on standard input until it ends, with `seconds` of processor time for each."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # not every system allows it
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    warnings.simplefilter("ignore")  # of the parser of expressions, on what a policy writes
    from .reasoning_gym_task import gym_data_set

    questions = gym_data_set(data_set, json.loads(config), int(seed), int(size))

    @functools.lru_cache(1024)
    def entry(index: int) -> Any:
        return questions[index]

    requests = os.fdopen(os.dup(0), encoding="utf-8")
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  what is evaluated must not read the requests
    send("ready")
    for line in requests:
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = math.ceil(used.ru_utime + used.ru_stime) + int(seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        index, answer = json.loads(line)
        try:
            score = float(questions.score_answer(answer, entry(index)))
            send(score if math.isfinite(score) else f"the score {score}, which is not finite")
        except (MemoryError, RecursionError, SystemExit):
            send(0.0)
        except Exception as error:  # whatever the data set's own code raises
            send(f"{type(error).__name__}: {str(error)[:_SHOWN]}")
