"""One clear error for each fault: the argument, what was expected, what came, the first bad index."""

from __future__ import annotations

import pytest
import torch

from analysis import UsageError, token_statistics
from analysis.token_stats import BACKENDS, available_backends, backends, native

NAN, INF = float("nan"), float("inf")
Z, Y = torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.long)
H, W = torch.ones(2, 3, 4), torch.ones(5, 4)


def with_entry(x: torch.Tensor, index: tuple[int, ...], value: float) -> torch.Tensor:
    x = x.clone()
    x[index] = value
    return x


FAULTS = {
    "no tokens": ({"logits": Z}, r"^tokens: expected the ids of the sampled tokens, got none"),
    "neither": ({"tokens": Y}, r"^logits, hidden: expected one of .*, got neither"),
    "both": ({"logits": Z, "hidden": H, "head": W, "tokens": Y}, r"^logits, hidden: .*, got both"),
    "no head": ({"hidden": H, "tokens": Y}, r"^head: expected the weight of the output layer"),
    "head beside logits": ({"logits": Z, "softcap": 3.0, "tokens": Y}, r"^logits: expected no head, bias, softcap"),
    "head's width": (
        {"hidden": H, "head": torch.ones(5, 3), "tokens": Y},
        r"^head: expected shape \(vocab, 4\), the width of hidden \(2, 3, 4\), got \(5, 3\)",
    ),
    "bias's shape": (
        {"hidden": H, "head": W, "bias": torch.ones(4), "tokens": Y},
        r"^bias: expected one number for each token, shape \(5,\), got \(4,\)",
    ),
    "tokens' shape": (
        {"logits": Z, "tokens": Y[:, :2]},
        r"^tokens: expected one id for each row of logits, shape \(2, 3\), got \(2, 2\)",
    ),
    "tokens' type": ({"logits": Z, "tokens": Y.float()}, r"^tokens: expected integer ids, got torch.float32"),
    "integer logits": (
        {"logits": Z.long(), "tokens": Y},
        r"^logits: expected a floating-point tensor, got torch.int64",
    ),
    "no vocabulary": ({"logits": torch.zeros(2, 3, 0), "tokens": Y}, r"^logits: expected shape \(…, vocab\)"),
    "outside": (
        {"logits": Z, "tokens": with_entry(Y, (1, 0), 5)},
        r"^tokens: expected ids in \[0, 5\), got 5 at index \(1, 0\)",
    ),
    "negative": ({"logits": Z, "tokens": with_entry(Y, (1, 2), -100)}, r"got -100 at index \(1, 2\).*token_mask"),
    "NaN logit": (
        {"logits": with_entry(Z, (1, 1, 3), NAN), "tokens": Y},
        r"^logits: expected finite numbers .* got nan at index \(1, 1, 3\)",
    ),
    "+inf logit": ({"logits": with_entry(Z, (0, 2, 4), INF), "tokens": Y}, r"^logits: .* got inf at index \(0, 2, 4\)"),
    "NaN hidden": (
        {"hidden": with_entry(H, (1, 0, 2), NAN), "head": W, "tokens": Y},
        r"^hidden: expected finite numbers, got nan at index \(1, 0, 2\)",
    ),
    "inf head": (
        {"hidden": H, "head": with_entry(W, (4, 1), INF), "tokens": Y},
        r"^head: expected finite numbers, got inf at index \(4, 1\)",
    ),
    "NaN bias": (
        {"hidden": H, "head": W, "bias": with_entry(torch.ones(5), (2,), NAN), "tokens": Y},
        r"^bias: expected finite numbers .*, got nan at index 2",
    ),
    "overflow": (
        {"hidden": H * 1e30, "head": W * 1e30, "tokens": Y, "backend": "eager"},
        r"^logits: expected finite numbers .*, got inf at index \(0, 0, 0\)",
    ),
    "all masked": (
        {"logits": with_entry(Z, (1, 2), -INF), "tokens": Y},
        r"^logits: every token of the row at index \(1, 2\) is masked",
    ),
    "masked y": (
        {"logits": with_entry(Z, (1, 2, 0), -INF), "tokens": Y},
        r"^tokens: the sampled token 0 at index \(1, 2\) is masked",
    ),
    "masked by the mask": (
        {"logits": Z, "tokens": Y, "vocab_mask": torch.tensor([False, True, True, True, True])},
        r"^tokens: the sampled token 0 at index \(0, 0\) is masked",
    ),
    "empty mask": (
        {"logits": Z, "tokens": Y, "vocab_mask": torch.zeros(5, dtype=torch.bool)},
        r"^vocab_mask: every token is masked",
    ),
    "mask's shape": (
        {"logits": Z, "tokens": Y, "vocab_mask": torch.ones(4, dtype=torch.bool)},
        r"^vocab_mask: expected shape \(5,\), got \(4,\)",
    ),
    "mask's type": (
        {"logits": Z, "tokens": Y, "token_mask": torch.ones(2, 3)},
        r"^token_mask: expected a boolean tensor, .* got torch.float32",
    ),
    "top_k": ({"logits": Z, "tokens": Y, "top_k": 6}, r"^top_k: expected a number from 0 \(none\) to .* 5, got 6"),
    "negative top_k": ({"logits": Z, "tokens": Y, "top_k": -1}, r"^top_k: .* got -1"),
    "listed outside": (
        {"logits": Z, "tokens": Y, "probs_of": torch.tensor([0, 7])},
        r"^probs_of: expected ids in \[0, 5\), got 7 at index 1",
    ),
    "listed shape": (
        {"logits": Z, "tokens": Y, "probs_of": torch.zeros(3, 2, dtype=torch.long)},
        r"^probs_of: expected ids of shape \(listed,\) or \(2, 3, 'listed'\), got \(3, 2\)",
    ),
    "temperature": ({"logits": Z, "tokens": Y, "temperature": 0.0}, r"^temperature: expected a positive number"),
    "softcap": (
        {"hidden": H, "head": W, "tokens": Y, "softcap": -1.0},
        r"^softcap: expected a positive number or None",
    ),
    "scale": ({"hidden": H, "head": W, "tokens": Y, "logit_scale": 0.0}, r"^logit_scale: expected a finite number"),
    "unknown back end": (
        {"logits": Z, "tokens": Y, "backend": "egar"},
        r"^backend: expected auto or one of .*, got 'egar'; did you mean eager\?",
    ),
    "ragged beside plain": (
        {"logits": torch.nested.nested_tensor([Z[0]], layout=torch.jagged), "tokens": Y[0]},
        r"^tokens: expected a nested tensor beside a nested logits, got a plain one",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_message(fault):
    arguments, message = FAULTS[fault]
    for backend in ("eager", "reference"):
        with pytest.raises(UsageError, match=message):
            token_statistics(**{"backend": backend, **arguments})


def test_faults_behind_the_first_chunk_and_in_the_other_back_ends():
    z, y = torch.zeros(3, 5000), torch.zeros(3, dtype=torch.long)
    for backend in BACKENDS:
        if available_backends()[backend] is not None:
            continue
        for value in (NAN, INF):
            with pytest.raises(UsageError, match=r"index \(1, 4321\)"):
                token_statistics(with_entry(z, (1, 4321), value), y, backend=backend)
        with pytest.raises(UsageError, match=r"every token of the row at index 2 is masked"):
            token_statistics(with_entry(z, (2,), -INF), y, backend=backend)


def test_ragged_lengths_that_differ():
    logits = torch.nested.nested_tensor([torch.zeros(2, 5), torch.zeros(3, 5)], layout=torch.jagged)
    tokens = torch.nested.nested_tensor([torch.zeros(3), torch.zeros(2)], layout=torch.jagged).long()
    with pytest.raises(UsageError, match="jagged nested tensors of the same lengths"):
        token_statistics(logits, tokens)


def test_a_back_end_that_cannot_run_says_why(monkeypatch):
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match=r"^backend: 'native' cannot run here: .*built with a C compiler"):
        token_statistics(Z, Y, backend="native")
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^backend: 'triton' cannot run here: the package triton is not installed"):
        token_statistics(Z, Y, backend="triton")
    with pytest.raises(UsageError, match=r"'native' .*: it computes in float32, the input is torch.float64"):
        token_statistics(Z.double(), Y, backend="native")


def test_what_is_chosen_depends_on_the_device_and_packages_only(monkeypatch):
    assert backends._automatic(torch.device("cpu"), torch.float32) == "eager"
    monkeypatch.setattr(backends, "_no_triton", lambda device, dtype: None)
    assert backends._automatic(torch.device("cuda"), torch.float32) == "triton"
    monkeypatch.setattr(backends, "_no_triton", lambda device, dtype: "not installed")
    assert backends._automatic(torch.device("cuda"), torch.float32) == "eager"


def test_a_build_that_fails_shows_the_compilers_words(monkeypatch, tmp_path):
    native._library.cache_clear()
    monkeypatch.setattr(native, "_FLAGS", ("--no-such-flag",))
    try:
        with pytest.raises(RuntimeError, match=r"could not build kernels.c: .*no-such-flag"):
            token_statistics(Z, Y, backend="native")
    finally:
        native._library.cache_clear()
