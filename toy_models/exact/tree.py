"""An autoregressive policy on a tree: sequences over a small vocabulary, every one of them enumerated.

A response is a sequence of tokens that ends with the end token (id 0) or at the greatest length, so that leaves lie at
different depths. The prefixes of t tokens that have not ended are the (V−1)^t contexts of level t, each with its own V
logits. With response weights w(y), optionally times a local factor u of each context and token, the expected gradient
of the logit of token v in context n is

    E[Σ_t w(y) u_t ∇ log π(y_t | y_<t)]  =  visit(n)·[π_v u_v Q_v − π_v·Σ_v' π_v' u_v' Q_v']

where visit(n) is the probability of reaching n, and Q_v = E[w | n, v] comes from one sweep from the leaves to the root
(the policy gradient theorem). Contexts share no parameter, so the squared norms of the scores along a response add up:

    E‖·‖² = Σ_n visit(n) Σ_v π_v u_v² Q²_v ‖e_v − π‖²    with Q²_v = E[w² | n, v].

Cost of each: one pass over the leaves, and memory of a few times their number.

Each level is one tensor, (…, (V−1)^t, V), with batch axes (seeds, prompts) in front. A tensor over the L leaves,
(…, L), is ordered by level and within a level by context: the ends of level 0, of level 1, …, then all V tokens of the
last level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from .arms import draw, net_weight
from .success import ExactPolicy
from .tensor_checks import check_logits, check_uniforms, check_weights

__all__ = ["Tree", "TreeDraws", "tree_leaves"]

END = 0
_MOST_LEAVES = 1 << 24  # of all batch entries together: a tensor over them is 128 MB in float64


def tree_leaves(vocab: int, depth: int) -> int:
    """The number of responses, L = Σ_{t < depth−1} (V−1)^t + (V−1)^(depth−1)·V.

    Args:
        vocab: V, number of tokens, end token included.
        depth: Greatest length of a response.

    >>> tree_leaves(3, 2)  # $, a$, aa, ab, b$, ba, bb
    7
    """
    return sum((vocab - 1) ** t for t in range(depth - 1)) + (vocab - 1) ** (depth - 1) * vocab


@dataclass(frozen=True)
class TreeDraws:
    """G sampled responses for each batch entry.

    Attributes:
        response: Index among the leaves, (…, G) int64.
        contexts: For each level the index of the context, (…, G) int64.
        tokens: For each level the token, (…, G) int64.
        alive: For each level whether the response reached it, (…, G) bool; where not, context and token mean nothing.
    """

    response: Tensor
    contexts: tuple[Tensor, ...]
    tokens: tuple[Tensor, ...]
    alive: tuple[Tensor, ...]


@dataclass(frozen=True)
class Tree(ExactPolicy):
    """π(y) = Π_t softmax(levels[t])[context, y_t] over sequences y that end with token 0 or at the greatest length.

    Raises ValueError for shapes that do not form a tree, logits that are not finite, and a tree too large to enumerate.

    Attributes:
        levels: The logits of each level, (…, (V−1)^t, V).

    >>> tree = Tree((torch.zeros(1, 2), torch.zeros(1, 2)))  # one token besides the end, at most two tokens
    >>> tree.enumerate(), tree.log_probs().exp()
    ([(0,), (1, 0), (1, 1)], tensor([0.5000, 0.2500, 0.2500]))
    >>> tree.success(torch.tensor([False, True, False]))
    tensor(0.2500)
    """

    levels: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError("levels: expected at least one level of logits, got none")
        vocab = self.levels[0].shape[-1]
        if vocab < 2:
            raise ValueError(f"levels: expected a vocabulary of an end token and at least one other, got {vocab}")
        _check_size(self.batch_shape.numel(), vocab, len(self.levels))
        for t, level in enumerate(self.levels):
            expected = (*self.batch_shape, (vocab - 1) ** t, vocab)
            if tuple(level.shape) != expected:
                raise ValueError(f"levels: expected shape {expected} at level {t}, got {tuple(level.shape)}")
            check_logits(f"levels[{t}]", level)

    @classmethod
    def random(
        cls,
        vocab: int,
        depth: int,
        *,
        scale: float = 1.0,
        batch: Sequence[int] = (),
        generator: torch.Generator,
        dtype: torch.dtype = torch.float64,
    ) -> Tree:
        """A tree with normally distributed logits.

        Args:
            vocab: V, number of tokens, end token included.
            depth: Greatest length of a response.
            scale: Standard deviation of the logits.
            batch: Batch axes.
            generator: Where the draws come from.
            dtype: Precision of the logits.

        Raises:
            ValueError: The tree is too large to enumerate.
        """
        _check_size(torch.Size(batch).numel(), vocab, depth)
        shapes = [(*batch, (vocab - 1) ** t, vocab) for t in range(depth)]
        return cls(tuple(scale * torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes))

    @property
    def vocab(self) -> int:
        """V, the number of tokens, end token included."""
        return self.levels[0].shape[-1]

    @property
    def depth(self) -> int:
        """The greatest length of a response."""
        return len(self.levels)

    @property
    def batch_shape(self) -> torch.Size:
        """The batch axes."""
        return self.levels[0].shape[:-2]

    @property
    def parameters(self) -> Tensor:
        """All N logits of each batch entry in one row, level by level: (…, N)."""
        return torch.cat([_flat(level) for level in self.levels], -1)

    def with_parameters(self, parameters: Tensor) -> Tree:
        """The same tree with other logits, of the shape of `parameters`."""
        sizes = [level.shape[-2] * self.vocab for level in self.levels]
        parts = parameters.split(sizes, dim=-1)
        return replace(self, levels=tuple(rearrange(part, "... (n v) -> ... n v", v=self.vocab) for part in parts))

    def log_probs(self) -> Tensor:
        """log π(y) of every response in nats, (…, L)."""
        ended, reached = [], self.levels[0].new_zeros((*self.batch_shape, 1))
        for t, level in enumerate(self.levels):
            tokens = reached[..., None] + level.log_softmax(-1)
            last = t == self.depth - 1
            ended.append(_flat(tokens) if last else tokens[..., END])
            reached = _flat(tokens[..., 1:])
        return torch.cat(ended, -1)

    def enumerate(self) -> list[tuple[int, ...]]:
        """Every response as its tokens, the end token included, in the order of the leaves."""
        responses: list[tuple[int, ...]] = []
        prefixes: list[tuple[int, ...]] = [()]
        for _ in range(self.depth - 1):
            responses += [(*prefix, END) for prefix in prefixes]
            prefixes = [(*prefix, v) for prefix in prefixes for v in range(1, self.vocab)]
        return responses + [(*prefix, v) for prefix in prefixes for v in range(self.vocab)]

    def lengths(self) -> Tensor:
        """Number of tokens of every response, (L,) int64, the end token included."""
        counts = [(self.vocab - 1) ** t * (self.vocab if t == self.depth - 1 else 1) for t in range(self.depth)]
        return torch.repeat_interleave(torch.arange(1, self.depth + 1), torch.tensor(counts))

    def sample(self, uniforms: Tensor) -> TreeDraws:
        """Draw responses by inverting the cumulative distribution of each level.

        Args:
            uniforms: Numbers in [0, 1), (…, G, depth).

        Returns:
            G responses for each batch entry.

        Raises:
            ValueError: The shape does not fit, or a number is outside [0, 1).
        """
        check_uniforms(uniforms, self.batch_shape)
        if uniforms.shape[-1] != self.depth:
            raise ValueError(
                f"uniforms: expected one for each of {self.depth} positions on the last axis, got shape "
                f"{tuple(uniforms.shape)}"
            )
        context = torch.zeros(uniforms.shape[:-1], dtype=torch.int64, device=uniforms.device)
        alive = torch.ones_like(context, dtype=torch.bool)
        response = torch.zeros_like(context)
        contexts, tokens, alives, first = [], [], [], 0
        for t, level in enumerate(self.levels):
            probs = level.softmax(-1).gather(-2, context[..., None].expand(*context.shape, self.vocab))
            token = draw(probs, uniforms[..., t : t + 1])[..., 0]
            contexts.append(context)
            tokens.append(token)
            alives.append(alive)
            last = t == self.depth - 1
            ends = alive if last else alive & (token == END)
            leaf = first + (context * self.vocab + token if last else context)
            response = torch.where(ends, leaf, response)
            first += level.shape[-2]
            alive = alive & ~ends
            context = torch.where(alive, context * (self.vocab - 1) + token - 1, 0)
        return TreeDraws(response, tuple(contexts), tuple(tokens), tuple(alives))

    def token_log_probs(self, draws: TreeDraws) -> Tensor:
        """log π of each token of sampled responses in nats, (…, G, depth), 0 after the end."""
        out = []
        for level, context, token, alive in zip(self.levels, draws.contexts, draws.tokens, draws.alive, strict=True):
            chosen = _flat(level.log_softmax(-1)).gather(-1, context * self.vocab + token)
            out.append(torch.where(alive, chosen, 0.0))
        return torch.stack(out, -1)

    def sampled_score(self, draws: TreeDraws, weights: Tensor) -> Tensor:
        """The gradient from sampled responses, Σ_i Σ_t w_it ∇ log π(y_it | y_i,<t).

        Args:
            draws: The responses.
            weights: w, (…, G, depth); those after the end are ignored.

        Returns:
            The gradient with respect to `parameters`, (…, N).
        """
        out = []
        for t, level in enumerate(self.levels):
            w = torch.where(draws.alive[t], weights[..., t].to(level.dtype), 0.0)
            visits, sizes = (
                level.new_zeros(level.shape[:-1]).scatter_add_(-1, draws.contexts[t], x) for x in (w, w.abs())
            )
            visits = net_weight(visits, sizes, w.shape[-1])
            pushed = _flat(torch.zeros_like(level))
            pushed = pushed.scatter_add_(-1, draws.contexts[t] * self.vocab + draws.tokens[t], w)
            out.append(pushed - _flat(level.softmax(-1) * visits[..., None]))
        return torch.cat(out, -1)

    def expected_score(
        self, weights: Tensor, factors: Sequence[Tensor] | None = None, *, behaviour: Tree | None = None
    ) -> Tensor:
        """The exact expected gradient E[Σ_t w(y) u_t ∇ log π(y_t | y_<t)].

        This covers a weight per token that is a weight of the response times a factor of its context and token;
        `expected_token_score` takes any weight per token.

        Args:
            weights: w, broadcast to (…, L).
            factors: u of each level, (…, (V−1)^t, V); 1 where left out.
            behaviour: Tree that responses are drawn from; this one where it is left out.

        Returns:
            The gradient with respect to `parameters`, (…, N).
        """
        out = []
        drawn = self if behaviour is None else behaviour
        for level, (visit, probs, value, factor) in zip(self.levels, drawn._sweep(weights, factors), strict=True):
            pushed = probs * value if factor is None else probs * value * factor
            target = probs if behaviour is None else level.softmax(-1)
            out.append(_flat(visit[..., None] * (pushed - target * pushed.sum(-1, keepdim=True))))
        return torch.cat(out, -1)

    def expected_token_score(self, weights: Tensor) -> Tensor:
        """The exact expected gradient E[Σ_t w_t(y) ∇ log π(y_t | y_<t)] for any weight per token.

        Cost: `depth` times that of `expected_score`.

        Args:
            weights: w of each response and position, (…, L, depth).

        Returns:
            The gradient with respect to `parameters`, (…, N).
        """
        total = None
        for t in range(self.depth):
            only_level_t = [torch.full_like(level, float(s == t)) for s, level in enumerate(self.levels)]
            part = self.expected_score(weights[..., t], only_level_t)
            total = part if total is None else total + part
        assert total is not None
        return total

    def expected_token_sum(self, weights: Tensor, factors: Sequence[Tensor]) -> Tensor:
        """The exact expectation E[Σ_t w(y) u_t] over responses.

        Args:
            weights: w, broadcast to (…, L).
            factors: u of each level, (…, (V−1)^t, V).

        Returns:
            The expectation of each batch entry, (…).

        Example:
            >>> tree = Tree((torch.zeros(1, 2), torch.zeros(1, 2)))
            >>> tree.expected_token_sum(torch.ones(3), [torch.ones(1, 2), torch.ones(1, 2)])  # the mean length
            tensor(1.5000)
        """
        total = self.levels[0].new_zeros(self.batch_shape)
        for visit, probs, value, factor in self._sweep(weights, factors):
            assert factor is not None
            total = total + (visit * (probs * value * factor).sum(-1)).sum(-1)
        return total

    def score_variance(self, weights: Tensor, factors: Sequence[Tensor] | None = None) -> Tensor:
        """The exact variance E‖g − E g‖² of g = Σ_t w(y) u_t ∇ log π(y_t | y_<t) for one drawn response.

        Args:
            weights: w, broadcast to (…, L).
            factors: u of each level, (…, (V−1)^t, V); 1 where left out.

        Returns:
            The variance, summed over the parameters, (…).
        """
        second = self.levels[0].new_zeros(self.batch_shape)
        squared = torch.as_tensor(weights).square()
        for visit, probs, value, factor in self._sweep(squared, factors):
            norm = (1 - probs).square() + probs.square().sum(-1, keepdim=True) - probs.square()
            each = probs * value * norm if factor is None else probs * value * factor.square() * norm
            second = second + (visit * each.sum(-1)).sum(-1)
        return second - self.expected_score(weights, factors).square().sum(-1)

    def score_covariance(self, weights: Tensor) -> Tensor:
        """The exact covariance of Σ_t w(y) ∇ log π(y_t | y_<t) for one drawn response, by enumeration.

        Memory: N·(N + L) numbers per batch entry, for trees of a few hundred leaves. `score_variance` gives the trace
        for any tree.

        Args:
            weights: w, broadcast to (…, L).

        Returns:
            The covariance, (…, N, N).

        Raises:
            ValueError: It does not fit into memory.
        """
        n_parameters, batch = self.parameters.shape[-1], self.batch_shape.numel()
        n_leaves = tree_leaves(self.vocab, self.depth)
        if batch * n_parameters * (n_parameters + n_leaves) > 1 << 27:
            raise ValueError(
                f"levels: expected a tree whose covariance fits into memory, got {n_parameters} parameters and "
                f"{n_leaves} responses (× {batch}); score_variance gives its trace"
            )
        w = check_weights(weights, torch.Size((*self.batch_shape, n_leaves)))
        scores = self.scores()
        weighted = scores * w[..., None]
        second = torch.einsum("...l,...ln,...lm->...nm", self.probs(), weighted, weighted)
        mean = self.expected_score(weights)
        return second - mean[..., :, None] * mean[..., None, :]

    def scores(self) -> Tensor:
        """∇ log π(y) of every response, as a dense tensor (…, L, N)."""
        responses, n = self.enumerate(), self.parameters.shape[-1]
        out = self.levels[0].new_zeros((*self.batch_shape, len(responses), n))
        starts = [0]
        for level in self.levels:
            starts.append(starts[-1] + level.shape[-2] * self.vocab)
        for row, response in enumerate(responses):
            context = 0
            for t, token in enumerate(response):
                start = starts[t] + context * self.vocab
                out[..., row, start : start + self.vocab] -= self.levels[t][..., context, :].softmax(-1)
                out[..., row, start + token] += 1
                context = context * (self.vocab - 1) + token - 1
        return out

    def _sweep(
        self, weights: Tensor, factors: Sequence[Tensor] | None
    ) -> list[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
        """(visit, π, Q, u) of each level: visit (…, n), the others (…, n, V); u is None without factors."""
        if factors is not None and len(factors) != self.depth:
            raise ValueError(f"factors: expected one tensor for each of {self.depth} levels, got {len(factors)}")
        probs = [level.softmax(-1) for level in self.levels]
        shape = torch.Size((*self.batch_shape, tree_leaves(self.vocab, self.depth)))
        leaves = check_weights(weights, shape).to(probs[0]).expand(shape)
        counts = [p.shape[-2] * (self.vocab if t == self.depth - 1 else 1) for t, p in enumerate(probs)]
        by_level = leaves.split(counts, dim=-1)
        values: list[Tensor] = [rearrange(by_level[-1], "... (n v) -> ... n v", v=self.vocab)]
        for t in range(self.depth - 2, -1, -1):
            below = rearrange((probs[t + 1] * values[0]).sum(-1), "... (n v) -> ... n v", v=self.vocab - 1)
            values.insert(0, torch.cat([by_level[t][..., None], below], -1))
        visits = [probs[0].new_ones((*self.batch_shape, 1))]
        for p in probs[:-1]:
            visits.append(_flat(visits[-1][..., None] * p[..., 1:]))
        local: Sequence[Tensor | None] = factors if factors is not None else [None] * self.depth
        return list(zip(visits, probs, values, local, strict=True))


def _flat(level: Tensor) -> Tensor:
    """The contexts and tokens of a level in one row: (…, n, V) -> (…, n·V)."""
    return level.flatten(-2)


def _check_size(batch: int, vocab: int, depth: int) -> None:
    leaves = tree_leaves(vocab, depth)
    if leaves * max(batch, 1) > _MOST_LEAVES:
        raise ValueError(
            f"levels: expected a tree that can be enumerated, at most {_MOST_LEAVES} responses over all batch entries, "
            f"got {leaves} × {batch}; lower the depth or the vocabulary, or sample from a model instead"
        )
