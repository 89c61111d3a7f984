"""The factorial on exact policies, and one exact expected gradient of a large tree.

one-factor cells   every first-in and last-out effect: 5 methods, 20 seeds, 256 prompts × 40 arms, 200 steps
                   bar: 90 s on two cores
full factorial     the same for all 64 cells; runs with FULL=1                      bar: 8 min on two cores
tree               E[w ∇ log π] of a tree with more than 10^6 leaves                bar: 2 s and 1 GB
"""

from __future__ import annotations

import os
import resource

import pytest
import torch

from analysis.common.provenance import cores
from analysis.factorial import Cells, full_factorial, one_factor_cells, run_cells
from analysis.factorial.factors import factors_of
from toy_models import Tree, tree_leaves


@pytest.mark.parametrize("kind", ["one-factor", "full"])
def test_cells(benchmark, kind):
    if kind == "full" and not os.environ.get("FULL"):
        pytest.skip("takes minutes; FULL=1 runs it")
    factors, settings = factors_of("bandit"), Cells()
    cells = one_factor_cells(factors) if kind == "one-factor" else full_factorial(factors)
    jobs = [(cell, method) for cell in cells for method in settings.methods]
    workers = min(2, cores())
    benchmark.pedantic(lambda: list(run_cells(jobs, settings, workers=workers)), rounds=1, iterations=1)
    print(f"\n{kind}: {len(cells)} cells × {len(settings.methods)} methods, {workers} workers")


def test_expected_gradient_of_a_large_tree(benchmark):
    torch.set_num_threads(1)
    vocab, depth = 11, 6
    tree = Tree.random(vocab, depth, generator=torch.Generator().manual_seed(0))
    leaves = tree_leaves(vocab, depth)
    weights = torch.randn(leaves, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    benchmark.pedantic(lambda: tree.expected_score(weights), rounds=5, iterations=1, warmup_rounds=1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"\n{leaves:,} leaves; peak memory of the whole process {peak / 1e9:.2f} GB")
