"""What a model needs between hidden states and a law: scale, softcap, bias, masks, temperature; ids, ranks, shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import laws, token_statistics
from analysis.laws import TokenStatistics
from analysis.token_stats.kernels import EagerKernels
from analysis.token_stats.native import NativeKernels, find_compiler
from analysis.token_stats.sources import HeadSource, LogitSource
from analysis.token_stats.streaming import Request, Tiles, stream
from tests.reference import softmax_dense
from tests.token_stats.test_accuracy import back_ends

FIELDS = tuple(TokenStatistics.__dataclass_fields__)
VOCABULARIES = (61, 700)


def example(vocab: int, n: int = 20, width: int = 16, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    hidden, head = torch.randn(n, width, generator=g), torch.randn(vocab, width, generator=g)
    return hidden, head, torch.randn(vocab, generator=g), torch.randint(0, vocab, (n,), generator=g)


@pytest.mark.parametrize("backend", ["reference", *back_ends(slow=False)])
def test_no_tokens_have_no_statistics(backend):
    """A microbatch whose rows an objective has dropped; in float32, where large logits are looked for."""
    hidden, head, _, y = example(61, n=0)
    stats = token_statistics(hidden=hidden, head=head, tokens=y, backend=backend, top_k=2, rank=True)
    assert (stats.log_prob.shape, stats.top_ids.shape, stats.token_rank.shape) == ((0,), (0, 2), (0,))


@pytest.mark.parametrize("backend", ["reference", *back_ends(slow=False)])
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_every_option_against_the_definition(backend, vocab):
    hidden, head, bias, y = example(vocab)
    allowed = torch.rand(vocab, generator=torch.Generator().manual_seed(1)) > 0.3
    allowed[y] = True
    listed = torch.tensor([0, vocab - 1, 3])
    options = {
        "plain": {},
        "bias": {"bias": bias},
        "temperature": {"temperature": 0.6},
        "softcap": {"softcap": 3.0},
        "scale": {"logit_scale": 0.25},
        "mask": {"vocab_mask": allowed},
        "all": {"bias": bias, "temperature": 1.7, "softcap": 5.0, "logit_scale": 0.5, "vocab_mask": allowed},
    }
    seen = {}
    for name, given_options in options.items():
        z = hidden.double() @ head.double().T
        z = z + given_options.get("bias", torch.zeros(vocab)).double()
        z = z * given_options.get("logit_scale", 1.0)
        cap = given_options.get("softcap")
        z = z if cap is None else cap * torch.tanh(z / cap)
        z = z if "vocab_mask" not in given_options else z.masked_fill(~allowed, -1e30)
        want = softmax_dense.statistics(z / given_options.get("temperature", 1.0), y)
        probs = torch.softmax(z / given_options.get("temperature", 1.0), -1)
        got = token_statistics(
            hidden=hidden, head=head, tokens=y, backend=backend, top_k=4, rank=True, probs_of=listed, **given_options
        )
        for field, value in want.items():
            torch.testing.assert_close(getattr(got, field).double(), value, rtol=3e-5, atol=1e-6, msg=f"{name} {field}")
        order = z.sort(descending=True, stable=True).indices
        assert torch.equal(got.top_ids, order[:, :4]), name
        assert torch.equal(got.token_rank, (order == y[:, None]).nonzero()[:, 1]), name
        torch.testing.assert_close(got.top_probs.double(), probs.gather(1, order[:, :4]), rtol=3e-5, atol=0)
        torch.testing.assert_close(got.probs_of.double(), probs[:, listed], rtol=3e-5, atol=1e-30)
        seen[name] = got.entropy
    assert len({tuple(entropy.tolist()) for entropy in seen.values()}) == len(options)  # each option does something


@pytest.mark.parametrize("backend", back_ends(slow=False))
@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_ids_and_ranks_with_ties_are_exact(backend, vocab, temperature):
    g = torch.Generator().manual_seed(5)
    hidden = torch.randint(-2, 3, (50, 8), generator=g).float()  # products of small integers are exact
    head = torch.randint(-1, 2, (vocab, 8), generator=g).float()
    y = torch.randint(0, vocab, (50,), generator=g)
    order = (hidden @ head.T).sort(descending=True, stable=True).indices
    for k in (1, 3, 30, vocab):
        for given_input in ({"hidden": hidden, "head": head}, {"logits": hidden @ head.T}):
            got = token_statistics(
                tokens=y, **given_input, top_k=k, rank=True, backend=backend, temperature=temperature
            )
            assert torch.equal(got.top_ids, order[:, :k])
            assert torch.equal(got.argmax_token, order[:, 0])
            assert torch.equal(got.token_rank, (order == y[:, None]).nonzero()[:, 1])


def test_listed_tokens_of_each_row():
    for vocab in VOCABULARIES:
        hidden, head, _, y = example(vocab)
        listed = torch.randint(0, vocab, (20, 5), generator=torch.Generator().manual_seed(2))
        listed[:, 0] = y
        probs = torch.softmax(hidden.double() @ head.double().T, -1)
        got = token_statistics(hidden=hidden, head=head, tokens=y, probs_of=listed)
        torch.testing.assert_close(got.probs_of.double(), probs.gather(1, listed), rtol=2e-5, atol=0)
        torch.testing.assert_close(got.probs_of[:, 0], got.prob, rtol=1e-5, atol=0)


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_shapes_slices_masks_and_ragged_batches(vocab):
    g = torch.Generator().manual_seed(6)
    logits, y = torch.randn(3, 7, vocab, generator=g), torch.randint(0, vocab, (3, 6), generator=g)
    options = {"top_k": 3, "rank": True, "probs_of": torch.tensor([1, 2])}
    flat = token_statistics(logits[:, :-1].reshape(-1, vocab), y.reshape(-1), **options)
    sliced = token_statistics(logits[:, :-1], y, **options)  # does not lie evenly in memory
    mask = torch.rand(3, 6, generator=g) > 0.4
    masked = token_statistics(logits[:, :-1], torch.where(mask, y, vocab + 5), token_mask=mask, **options)
    lengths = mask.sum(1).tolist()
    ragged = token_statistics(
        torch.nested.nested_tensor([logits[i, :n] for i, n in enumerate(lengths)], layout=torch.jagged),
        torch.nested.nested_tensor([y[i, :n] for i, n in enumerate(lengths)], layout=torch.jagged),
        **options,
    )
    for name in FIELDS:
        values = getattr(flat, name)
        assert torch.equal(getattr(sliced, name), values.reshape(3, 6, *values.shape[1:])), name
        assert torch.equal(getattr(masked, name)[mask], getattr(sliced, name)[mask]), name
        left_out = getattr(masked, name)[~mask]
        assert bool((torch.isnan(left_out) if left_out.is_floating_point() else left_out == -1).all()), name
        for i, part in enumerate(getattr(ragged, name).unbind()):
            assert torch.equal(part, getattr(sliced, name)[i, : lengths[i]]), name
    nothing = token_statistics(torch.zeros(2, 0, vocab), torch.zeros(2, 0, dtype=torch.long), **options)
    assert nothing.top_ids.shape == (2, 0, 3)
    assert nothing.log_prob.shape == (2, 0)


def test_no_gradient_and_nothing_is_changed():
    hidden, head, bias, y = example(700)
    head.requires_grad_()
    before = [x.detach().clone() for x in (hidden, head, bias)]
    threads = torch.get_num_threads()
    stats = token_statistics(hidden=hidden, head=head, bias=bias, tokens=y, top_k=2, rank=True, softcap=4.0)
    assert not any(getattr(stats, name).requires_grad for name in FIELDS if name != "probs_of")
    logits = (hidden @ head.T).detach()
    copy = logits.clone()
    for backend in ("eager", "native" if find_compiler() else "eager"):
        token_statistics(logits, y, rank=True, top_k=2, backend=backend)
    assert torch.equal(logits, copy)
    assert all(torch.equal(a, b) for a, b in zip(before, (hidden, head, bias), strict=True))
    assert torch.get_num_threads() == threads


def _kernels():
    return [EagerKernels()] + ([NativeKernels()] if find_compiler() else [])


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 9),
    vocab=st.integers(1, 400),
    rows=st.integers(1, 9),
    slabs=st.integers(1, 4),
    scale=st.sampled_from([0.0, 1.0, 30.0]),
    k=st.integers(1, 12),
    rounded=st.booleans(),
    seed=st.integers(0, 999),
)
def test_blocks_and_chunks_do_not_matter(n, vocab, rows, slabs, scale, k, rounded, seed):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, vocab, generator=g) * scale
    z = z.round() if rounded else z
    z[:, torch.rand(vocab, generator=g) < 0.2] = float("-inf")
    y = torch.randint(0, vocab, (n,), generator=g)
    z[torch.arange(n), y] = z[torch.arange(n), y].clamp(min=-20)
    k = min(k, vocab)
    want = token_statistics(z, y, backend="reference", rank=True, top_k=k)
    for kernels in _kernels():
        source = LogitSource(z, None, None, torch.float32)
        got = stream(source, Request(y, 1.0, k, True, None), kernels, Tiles(rows, 64 * slabs))
        for name in ("argmax_token", "token_rank", "top_ids"):
            assert torch.equal(getattr(got, name), getattr(want, name)), name
        for name in ("log_prob", "one_minus_prob", "entropy", "collision", "direction_norm", "top_probs"):
            torch.testing.assert_close(getattr(got, name).double(), getattr(want, name), rtol=2e-5, atol=1e-37)


@settings(max_examples=30, deadline=None)
@given(
    vocab=st.integers(2, 500),
    seed=st.integers(0, 999),
    shift=st.floats(-300, 300),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_a_shift_changes_nothing_and_a_permutation_permutes(vocab, seed, shift, dtype):
    g = torch.Generator().manual_seed(seed)
    z = (torch.randn(5, vocab, generator=g) * 3).to(dtype).to(torch.float64)
    y = torch.randint(0, vocab, (5,), generator=g)
    order = torch.randperm(vocab, generator=g)
    plain = token_statistics(z, y, rank=True)
    moved = token_statistics((z + shift)[:, order], order.argsort()[y], rank=True)
    for name in ("log_prob", "one_minus_prob", "entropy", "collision", "collision_log_prob", "direction_norm"):
        torch.testing.assert_close(getattr(moved, name), getattr(plain, name), rtol=1e-9, atol=1e-15)


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
def test_threads_share_rows_without_changing_a_bit():
    hidden, head, _, y = example(3000, n=70)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            z = hidden @ head.T if threads == 1 else z  # noqa: F821, products depend on threads
            results.append(token_statistics(z, y, rank=True, top_k=3, backend="native"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(getattr(results[0], f), getattr(other, f)) for f in FIELDS if f != "probs_of")


def test_the_logit_of_y_is_one_number_everywhere():
    """Rank, argmax and probabilities see the same logit of y, whatever the block's product made of it."""
    hidden, head, _, _ = example(700, n=40, width=512)
    y = (hidden @ head.T).argmax(1)
    head[:350], head[350:] = head[350:].clone(), head[350:].clone()  # each token has a twin
    y = torch.where(y < 350, y, y - 350)
    stats = token_statistics(hidden=hidden, head=head, tokens=y, rank=True, top_k=2, probs_of=y[:, None])
    first = stats.token_rank == 0
    assert torch.equal(stats.argmax_token[first], y[first])
    held = stats.log_prob > -60  # log π in float32 is π to |log π| ulp
    torch.testing.assert_close(stats.probs_of.squeeze(1)[held], stats.prob[held], rtol=1e-5, atol=0)
    assert bool(held.any())
    assert bool((stats.argmax_prob >= stats.prob * (1 - 1e-6)).all())


def test_first_order_laws_take_the_statistics_at_152k_without_logits():
    g = torch.Generator().manual_seed(7)
    vocab, n = 151_936, 6
    hidden, head = torch.randn(n, 32, generator=g), torch.randn(vocab, 32, generator=g) * 0.4
    z = hidden.double() @ head.double().T
    y = torch.randint(0, vocab, (n,), generator=g)
    y[::2] = z.argmax(1)[::2]
    listed = torch.randint(0, vocab, (9,), generator=g)
    listed = listed[~torch.isin(listed, y)]
    stats = token_statistics(hidden=hidden, head=head, tokens=y, top_k=20, probs_of=listed)
    weight, step = torch.tensor([1.0, -1.0, 0.5, -2.0, 1.0, -0.1]), 0.1
    flow = laws.mass_flow(z, y, weight.double(), step)
    gradient = laws.logit_gradient(z, y, weight.double())
    norms = laws.gradient_norms(stats, weight)
    entropy_flow = -(flow * torch.log_softmax(z, -1)).sum(-1)
    dense = token_statistics(z, y)
    bar = {"rtol": 3e-5, "atol": 1e-12}
    torch.testing.assert_close(
        laws.token_prob_change(stats, weight, step).double(), flow.gather(1, y[:, None]).squeeze(1), **bar
    )
    torch.testing.assert_close(
        laws.other_prob_change(stats.probs_of, stats, weight, step).double(), flow[:, listed], rtol=1e-3, atol=1e-12
    )
    torch.testing.assert_close(norms.l2.double(), gradient.norm(dim=-1), **bar)
    torch.testing.assert_close(norms.l1.double(), gradient.abs().sum(-1), **bar)
    torch.testing.assert_close(laws.entropy_change(stats, weight, step).double(), entropy_flow, rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(
        laws.squeeze_boundary(stats).double(), laws.squeeze_boundary(dense), rtol=1e-4, atol=1e-8
    )


def test_head_source_never_holds_the_logits():
    hidden, head, _, y = example(5000, n=600, width=8)
    source = HeadSource(hidden, head, None, None, None, torch.float32, scale=1.0, softcap=None)
    stream(source, Request(y, 1.0, 0, False, None), EagerKernels(), Tiles(128, 512))
    assert source._buffer.numel() == 128 * 512
