"""Token statistics against the bare product of hidden states and head: ratios of CPU time, one thread, and memory.

Every way runs once a pass, one after the other in one process; a ratio is the median over the passes of ratios within a
pass. Peers are called from their installed packages and left out with the reason where they are not installed. In the
environment: `REPEATS` (9) passes, `WIDTHS` (896,3584), `ROWS` (512), `ONLY` (a regular expression on the names).

    bars     eager 1.25, native 1.18 of the product with all statistics, memory 40 MB;   aims 1.15, 1.05, 16 MB
             V 64, D 128: 5.5;  aim 3.   CUDA: 1.2 of cuBLAS in bf16, 256 MiB;   aim 1.08

Memory is the peak of the resident set (VmHWM, reset through /proc/self/clear_refs) of a child process over what it held
before the call, less the outputs; the heap's free pages are given back first and libraries warmed up on a small input.
MALLOC_MMAP_THRESHOLD_ is 64 KiB there, so that the peak is of arrays in use: with glibc's sliding threshold freed ones
linger in the heap, and the same call reads anything from 13 to 42 MB.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from analysis.token_stats import available_backends, token_statistics
from benchmarks.memory import CAN_MEASURE, peak_over
from benchmarks.ratios import note_ratios
from docs.generators.other_libraries import PEERS, Peer

REPEATS = int(os.environ.get("REPEATS", "9"))
WIDTHS = [int(width) for width in os.environ.get("WIDTHS", "896,3584").split(",")]
ROWS = int(os.environ.get("ROWS", "512"))
ONLY = re.compile(os.environ.get("ONLY", ""))
VOCAB = 151_936
FULL = {"top_k": 20, "rank": True}
OURS = ("eager", "native")

Way = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object]  # hidden, head, tokens


def _product(hidden, head, tokens):
    """The logits, block by block, into one buffer: what no way can do without."""
    buffer = torch.empty(512, 2048)
    for rows in hidden.split(512):
        for part in head.split(2048):
            torch.mm(rows, part.t(), out=buffer[: len(rows), : len(part)])


def _one_product(hidden, head, tokens):
    """For a small vocabulary: blocks of rows against the whole head."""
    buffer = torch.empty(2048, len(head))
    for rows in hidden.split(2048):
        torch.mm(rows, head.t(), out=buffer[: len(rows)])


def _ours(backend: str, **options) -> Way:
    return lambda hidden, head, tokens: token_statistics(
        hidden=hidden, head=head, tokens=tokens, backend=backend, **options
    )


def _theirs(peer: Peer) -> Way:
    def way(hidden, head, tokens):
        if peer.from_logits is not None:
            return peer.from_logits(hidden @ head.t(), tokens)
        return peer.from_hidden(hidden, head, None, tokens)

    return torch.no_grad()(way)


def _ways(**full) -> dict[str, Way]:
    """All that can run here, by name; prints why the others cannot."""
    ways: dict[str, Way] = {}
    for backend in OURS:
        reason = available_backends()[backend]
        if reason is None:
            ways[backend] = _ours(backend)
            ways[f"{backend}, {', '.join(f'{name} {value}' for name, value in full.items())}"] = _ours(backend, **full)
        else:
            print(f"\n{backend}: left out: {reason}")
    for name, peer in PEERS.items():
        reason = peer.obstacle()
        if reason is None:
            ways[f"{name}" if not peer.library else f"{name} ({peer.library} {peer.version()})"] = _theirs(peer)
        else:
            print(f"\n{name}: left out: {reason}")
    return {name: way for name, way in ways.items() if ONLY.search(name)}


def _inputs(rows: int, width: int, vocab: int, device: str = "cpu", dtype: torch.dtype = torch.float32):
    """Hidden states and a head whose logits spread by 3 nats."""
    g = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(rows, width, generator=g, device=device, dtype=dtype)
    head = torch.randn(vocab, width, generator=g, device=device, dtype=dtype).mul_(3 / width**0.5)
    return hidden, head, torch.randint(vocab, (rows,), generator=g, device=device)


def _interleave(benchmark, bare: Way, ways: dict[str, Way], inputs) -> None:
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {name: [] for name in ("product", *ways)}
    timed = {"product": bare, **ways}
    hidden, head, tokens = inputs
    for way in timed.values():  # compiles, loads libraries
        way(hidden[:64], head, tokens[:64])

    def passes():
        for _ in range(REPEATS):
            for name, way in timed.items():
                start = time.process_time()
                way(*inputs)
                seconds[name].append(time.process_time() - start)

    benchmark.pedantic(passes, rounds=1, iterations=1)
    note_ratios(benchmark, seconds, "product", "seconds", rows=len(tokens), width=hidden.shape[1], vocab=len(head))


@pytest.mark.parametrize("width", WIDTHS)
def test_against_the_product(benchmark, width):
    _interleave(benchmark, _product, _ways(**FULL), _inputs(ROWS, width, VOCAB))


def test_small_vocabulary_against_the_product(benchmark):
    _interleave(benchmark, _one_product, _ways(top_k=8), _inputs(32_768, 128, 64))


# The sizes among which memory must stay flat, width 896.
SIZES = [(512, 32_000), (512, VOCAB), (4096, VOCAB), (512, 300_000)]


@pytest.mark.skipif(not CAN_MEASURE, reason="needs /proc/self/clear_refs (Linux)")
def test_memory(benchmark):
    found: dict[str, list[float]] = {}

    def measure():
        for backend in OURS:
            reason = available_backends()[backend]
            if reason is not None:
                print(f"\n{backend}: left out: {reason}")
                continue
            found[backend] = [_in_child(backend, *size) for size in SIZES]
        for name, peer in PEERS.items():
            reason = peer.obstacle()
            if reason is None:
                found[name] = [_in_child(name, *size) for size in SIZES[:2]]
            else:
                print(f"\n{name}: left out: {reason}")

    benchmark.pedantic(measure, rounds=1, iterations=1)
    for name, megabytes in found.items():
        benchmark.extra_info[name] = dict(zip((f"N {n:,}, V {v:,}" for n, v in SIZES), megabytes, strict=False))
        cells = ", ".join(f"N {n} V {v}: {mb:.1f}" for (n, v), mb in zip(SIZES, megabytes, strict=False))
        print(f"\n{name}, MB over inputs and outputs: {cells}")


def _in_child(name: str, rows: int, vocab: int) -> float:
    command = [sys.executable, __file__, name, str(rows), str(vocab)]
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


def _peak_megabytes(name: str, rows: int, vocab: int) -> float:
    """Of one call in this process."""
    torch.set_num_threads(1)
    way = _theirs(PEERS[name]) if name in PEERS else _ours(name, **FULL)
    hidden, head, tokens = _inputs(rows, 896, vocab)
    way(hidden[:32], head[:4096], tokens[:32] % 4096)
    result, peak = peak_over(lambda: way(hidden, head, tokens))
    values = result.values() if isinstance(result, dict) else vars(result).values()
    outputs = sum(x.numel() * x.element_size() for x in values if x is not None)
    return (peak - outputs) / 1e6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_against_cublas(benchmark):
    inputs = _inputs(8192, 3584, 152_064, "cuda", torch.bfloat16)

    def bare(hidden, head, tokens):
        """cuBLAS in bf16, the vocabulary in parts, into one buffer."""
        buffer = torch.empty(len(hidden), 8448, device="cuda", dtype=torch.bfloat16)
        for part in head.split(8448):
            torch.mm(hidden, part.t(), out=buffer[:, : len(part)])

    ways = {"product": bare}
    for backend in ("eager", "triton"):
        reason = available_backends("cuda", torch.bfloat16)[backend]
        if reason is None:
            ways |= {backend: _ours(backend), f"{backend}, top_k 20, rank": _ours(backend, **FULL)}
        else:
            print(f"\n{backend}: left out: {reason}")
    for name, peer in PEERS.items():
        if peer.from_hidden is not None and peer.obstacle() is None:
            ways[name] = _theirs(peer)
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    mebibytes: dict[str, float] = {}
    for name, way in ways.items():
        way(*inputs)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way(*inputs)
        mebibytes[name] = (torch.cuda.max_memory_allocated() - before) / 2**20

    def passes():
        for _ in range(REPEATS):
            for name, way in ways.items():
                start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                way(*inputs)
                stop.record()
                torch.cuda.synchronize()
                milliseconds[name].append(start.elapsed_time(stop))

    benchmark.pedantic(passes, rounds=1, iterations=1)
    sizes = {"mebibytes_over_inputs": mebibytes, "device": torch.cuda.get_device_name()}
    note_ratios(benchmark, milliseconds, "product", "milliseconds", **sizes)
    print(", ".join(f"{name}: {size:.0f} MiB over inputs" for name, size in mebibytes.items()))


if __name__ == "__main__":
    print(_peak_megabytes(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
