"""The factorial on exact policies, and one exact expected gradient of a large tree.

one-factor cells   every first-in and last-out effect: 5 methods, 20 seeds, 256 prompts × 40 arms, 200 steps
                   bar: 90 s on two cores
tree               E[w ∇ log π] of a tree with more than 10^6 leaves                bar: 2 s and 1 GB
"""

from __future__ import annotations

import torch

from analysis.common.provenance import cores
from analysis.factorial import Cells, one_factor_cells, run_cells
from analysis.factorial.factors import factors_of
from benchmarks.memory import CAN_MEASURE, peak_over
from toy_models import Tree, tree_leaves


def test_one_factor_cells(benchmark):
    factors, settings = factors_of("bandit"), Cells()
    cells = one_factor_cells(factors)
    jobs = [(cell, method) for cell in cells for method in settings.methods]
    workers = min(2, cores())
    benchmark.pedantic(lambda: list(run_cells(jobs, settings, workers=workers)), rounds=1, iterations=1)
    sizes = {name: getattr(settings, name) for name in ("seeds", "prompts", "arms", "steps")}
    benchmark.extra_info |= sizes | {"cells": len(cells), "methods": len(settings.methods), "workers": workers}


def test_expected_gradient_of_a_large_tree(benchmark):
    torch.set_num_threads(1)
    vocab, depth = 11, 6
    tree = Tree.random(vocab, depth, generator=torch.Generator().manual_seed(0))
    leaves = tree_leaves(vocab, depth)
    weights = torch.randn(leaves, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    benchmark.pedantic(lambda: tree.expected_score(weights), rounds=5, iterations=1, warmup_rounds=1)
    benchmark.extra_info["leaves"] = leaves
    if CAN_MEASURE:
        benchmark.extra_info["peak_bytes"] = peak_over(lambda: tree.expected_score(weights))[1]
