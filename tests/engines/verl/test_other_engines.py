"""Strategies whose engines are not observed, where records are asked for by plain `verl.trainer.main_ppo`."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from verl.workers.engine import EngineRegistry

import analysis.engines.verl  # noqa: F401 - registers
from analysis.engines.verl.observing.other_engines import OTHER_STRATEGIES
from analysis.errors import UsageError


@pytest.mark.parametrize("strategy", OTHER_STRATEGIES)
@pytest.mark.parametrize("device", ["cuda", "npu"])
def test_it_is_refused_when_the_worker_starts(strategy: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_ENGINE_VENDOR", "dynamics")
    monkeypatch.setenv("VERL_ENGINE_DEVICE", device)
    with pytest.raises(UsageError, match=f"strategy: expected fsdp or fsdp2, .* got {strategy}; set it, or leave"):
        EngineRegistry.new("language_model", strategy, None, SimpleNamespace(strategy=strategy), None, None)


def test_every_engine_of_verl_is_observed_or_refused() -> None:
    """Those that this machine can import, and all that we name."""
    assert set(EngineRegistry._engines["language_model"]) == {"fsdp", "fsdp2", *OTHER_STRATEGIES}
