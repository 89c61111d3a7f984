"""What others compute of the same statistics, by their own functions: plain float32, TRL and verl.

The libraries are not dependencies: `obstacle` says why a peer cannot run here. Each takes what it takes in its home,
whole logits or hidden states with a head, and gives the statistics it gives there under our names.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PEERS", "Peer", "naive"]

# (logits, tokens) or (hidden, head, bias, tokens) -> statistics by name, (n,) each
FromLogits = Callable[[Tensor, Tensor], dict[str, Tensor]]
FromHidden = Callable[[Tensor, Tensor, Tensor | None, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Peer:
    """One way of another library, either `from_logits` or `from_hidden`."""

    library: str  # its distribution's name; "" for torch alone
    functions: str  # what is called, for tables
    from_logits: FromLogits | None = None
    from_hidden: FromHidden | None = None
    takes_bias: bool = True

    def obstacle(self) -> str | None:
        """Why it cannot run here; None where it can."""
        if self.library and importlib.util.find_spec(self.library) is None:
            return f"the package {self.library} is not installed"
        return None

    def version(self) -> str:
        """The installed version of its library."""
        return importlib.metadata.version(self.library or "torch")


def naive(logits: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """All statistics by their definitions from `log_softmax`, in float32.

    >>> float(naive(torch.tensor([[40.0, 0.0]]), torch.tensor([0]))["one_minus_prob"])  # 4e-18
    0.0
    """
    log_probs = torch.log_softmax(logits.float(), -1)
    probs = log_probs.exp()
    y = tokens[:, None]
    log_prob = log_probs.gather(-1, y).squeeze(-1)
    squares = probs * probs
    return {
        "log_prob": log_prob,
        "one_minus_prob": 1 - log_prob.exp(),
        "entropy": -(probs * log_probs).sum(-1),
        "collision": squares.sum(-1),
        "collision_log_prob": (squares * log_probs).sum(-1),
        "direction_norm": torch.zeros_like(probs).scatter_(-1, y, 1).sub_(probs).norm(dim=-1),
    }


def _trl(logits: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    function = importlib.import_module("trl.trainer.utils").selective_log_softmax_and_entropy
    log_prob, entropy = function(logits, tokens, entropy_requires_grad=False)
    return {"log_prob": log_prob, "entropy": entropy}


def _trl_chunked(hidden: Tensor, head: Tensor, bias: Tensor | None, tokens: Tensor) -> dict[str, Tensor]:
    """What the forward of `add_fused_lm_head` calls, with its width of chunks."""
    utils = importlib.import_module("trl.trainer.utils")
    function = importlib.import_module("trl.kernels").ChunkedLogProbFunction
    log_prob, entropy, log_collision, _, _ = function.apply(
        hidden, head, bias, tokens, 1.0, utils._CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("entropy", "log_sum_sq_probs")
    )
    return {"log_prob": log_prob, "entropy": entropy, "collision": log_collision.exp()}


def _verl(logits: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    functions = importlib.import_module("verl.utils.torch_functional")
    return {
        "log_prob": functions.logprobs_from_logits(logits, tokens),
        "entropy": functions.entropy_from_logits(logits),
    }


def _verl_fused(hidden: Tensor, head: Tensor, bias: Tensor | None, tokens: Tensor) -> dict[str, Tensor]:
    """Its fused head in torch (its Triton kernel needs CUDA)."""
    assert bias is None
    head_of = importlib.import_module("verl.utils.experimental.torch_functional").FusedLinearForPPO
    log_prob, entropy = head_of()(hidden, head, tokens)
    return {"log_prob": log_prob, "entropy": entropy}


PEERS: dict[str, Peer] = {
    "naive": Peer("", "`log_softmax` in float32, then sums", from_logits=naive),
    "TRL": Peer("trl", "`trl.trainer.utils.selective_log_softmax_and_entropy`", from_logits=_trl),
    "TRL chunked": Peer(
        "trl", "`trl.kernels.ChunkedLogProbFunction`, as `add_fused_lm_head` calls it", from_hidden=_trl_chunked
    ),
    "verl": Peer(
        "verl", "`verl.utils.torch_functional.logprobs_from_logits`, `entropy_from_logits`", from_logits=_verl
    ),
    "verl fused": Peer(
        "verl",
        "`verl.utils.experimental.torch_functional.FusedLinearForPPO`",
        from_hidden=_verl_fused,
        takes_bias=False,
    ),
}
