"""The room as a whole: its public names, and what importing them loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

import analysis.evaluation as room


def test_every_public_name_exists_and_hides_no_module():
    for name in room.__all__:
        assert not isinstance(getattr(room, name), type(sys)), f"{name} is a module, not the function"
    assert dir(room) == room.__all__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = room.nothing


def test_numbers_alone_do_not_load_torch():
    code = ("import sys; from analysis.evaluation import curves, interval, matched, pass_at_k, pass_at_k_exact; "
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)
