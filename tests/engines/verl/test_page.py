"""What `docs/how_to/watch_a_verl_run.md` tells readers to type can train, and the names that it gives exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from analysis.engines.scalars import SCALARS
from analysis.engines.verl.__main__ import main
from analysis.engines.verl.configuration.composition import compose
from analysis.engines.verl.configuration.launch import observing_overrides

PAGE = (Path(__file__).resolve().parents[3] / "docs/how_to/watch_a_verl_run.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_configuration_of_the_page_can_train(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = (block for block in BLOCKS if " check " in block)
    words = shlex.split(command.replace("\\\n", ""))
    assert words[:4] == ["python", "-m", "analysis.engines.verl", "check"]
    assert main(["check", "--no-files", *words[4:]]) == 0
    assert "runs/mine: tokens of 0.125 of the prompts" in capsys.readouterr().out


def test_the_keys_of_the_page_are_those_that_train_adds() -> None:
    (block,) = (block for block in BLOCKS if block.startswith("actor_rollout_ref.model.external_lib"))
    added = observing_overrides(compose(), Path("/shared/runs/mine"), 0.125)
    assert sorted(block.split()) == sorted(added)


def test_the_numbers_in_the_logs_are_all_named() -> None:
    section = PAGE.partition("## In verl's logs")[2].partition("\n## ")[0]
    names = set(re.findall(r"`(\w+)`", section))
    assert names == {*SCALARS, "dead_groups", "updates"} - {"grad_cos"}
