"""The battery of hard rows, and docs/token_statistics.md as the page of its kept measurements."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from docs.generators import results
from docs.generators import token_accuracy as battery
from docs.generators import token_statistics_page as document
from docs.generators.other_libraries import PEERS, Peer


@pytest.mark.parametrize("vocab", battery.VOCABULARIES)
@pytest.mark.parametrize("kind", battery.KINDS)
def test_ours_is_right_on_every_hard_row(kind, vocab):
    errors = battery.measure_ours(kind, vocab, ["eager"])
    assert set(errors) == set(battery.STATISTICS)
    assert all(error <= 2e-5 for error in errors.values()), errors


def test_kept_measurements_are_complete_and_hold_when_they_are_made_again():
    errors = results.read("token_statistics")["errors"]
    assert list(errors) == list(battery.KINDS)
    sizes = {str(vocab) for vocab in battery.VOCABULARIES}
    for kind, found in errors.items():
        assert set(found) == {"here", *PEERS}
        assert set(found["here"]) == set(found["naive"]) == set(battery.STATISTICS)
        now = battery.measure_ours(kind, 63, ["eager"])
        for name, by_vocab in found["here"].items():
            assert set(by_vocab) == sizes
            # kept: the worst of all back ends, and 1e-6 for whatever is smaller
            assert now[name] <= by_vocab["63"], (kind, name)


def test_battery_sees_what_is_wrong():
    # Plain float32 loses a confident token wholly, and NaN comes of 0·(−inf): both must show as errors.
    assert battery.measure_peer(PEERS["naive"], "peaked, gap 40", 63)["one_minus_prob"] == 1
    assert math.isnan(battery.measure_peer(PEERS["naive"], "every third column −∞", 63)["entropy"])
    off = Peer("", "π_y off by 1e-3", from_logits=lambda z, y: {"log_prob": z.log_softmax(-1)[range(6), y] * 1.001})
    assert battery.measure_peer(off, "spread of 3 nats", 63)["log_prob"] == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("kind", battery.KINDS)
def test_product_of_hidden_states_is_the_logits(kind):
    z, _ = battery.hard_rows(kind, 63)
    hidden, head, bias = battery._as_product(z)
    product = hidden.float() @ head.float().t()
    assert torch.equal(product if bias is None else product + bias, z.float())


def test_peers_that_are_not_installed_keep_their_measurements(monkeypatch):
    monkeypatch.setattr(document, "VOCABULARIES", (63,))
    monkeypatch.setattr(document, "KINDS", {kind: battery.KINDS[kind] for kind in ("uniform", "peaked, gap 40")})
    monkeypatch.setattr(document, "cpu_backends", lambda: ["eager"])
    monkeypatch.setattr(Peer, "obstacle", lambda peer: f"no {peer.library}" if peer.library else None)
    before = copy.deepcopy(results.read("token_statistics"))
    before["errors"]["uniform"]["verl"]["entropy"]["63"] = 0.5
    before["versions"]["trl"] = "0.0.1"
    after = document.measure(before)
    assert after["errors"]["uniform"]["verl"] == before["errors"]["uniform"]["verl"]
    assert after["versions"]["trl"] == "0.0.1"
    assert after["errors"]["peaked, gap 40"]["naive"]["one_minus_prob"] == {"63": 1.0}
    page = document.token_statistics_page(after)
    assert "trl 0.0.1" in page
    assert "| uniform | 1e-6 | 1e-6 | 1e-6 | 1e-6 | 0.5 | 1e-6 |" in page
    with pytest.raises(KeyError):
        document.measure()
