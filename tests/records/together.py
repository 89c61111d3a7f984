"""Ranks as threads of one process, for the tests of what several ranks record."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

from analysis.records import Ranks


class Together:
    """Collective calls between threads; a thread that ends with an error fails those that wait for it, as in gloo."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._meeting = threading.Condition()
        self._calls: dict[int, dict[int, Any]] = {}
        self._dead = False

    def rank(self, number: int) -> Ranks:
        calls = itertools.count()

        def gather(value: Any) -> list[Any]:
            with self._meeting:
                values = self._calls.setdefault(next(calls), {})
                values[number] = value
                self._meeting.notify_all()
                self._meeting.wait_for(lambda: len(values) == self.count or self._dead, timeout=20)
                if len(values) < self.count:
                    raise RuntimeError("another rank is gone")
                return [values[rank] for rank in range(self.count)]

        return Ranks(number, self.count, gather)

    def run(self, work: Callable[[Ranks], Any]) -> list[Any]:
        """What `work` returned or raised on each rank."""
        results: list[Any] = [None] * self.count

        def one(number: int) -> None:
            try:
                results[number] = work(self.rank(number))
            except BaseException as error:
                results[number] = error
                with self._meeting:
                    self._dead = True
                    self._meeting.notify_all()

        threads = [threading.Thread(target=one, args=(number,)) for number in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results
