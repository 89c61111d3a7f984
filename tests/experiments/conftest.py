from __future__ import annotations

from pathlib import Path

import pytest

from analysis.recipes import Recipe


@pytest.fixture
def fake_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recipe:
    """Two runs of four steps for `fake_training`, in an empty folder; its base is a folder, so none is pretrained."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (base / name).write_text('{"hidden_size": 64}')
    return Recipe.load("tiny").set(name="fake", steps=4, **{"policy.base": str(base)})
