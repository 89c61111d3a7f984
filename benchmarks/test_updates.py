"""CPU time of one optimiser update: GRPO and PPO against REINFORCE on the same rollouts (bar: 1.3).

Each pass makes the four updates of a step of the default recipe's size (128 prompts × 8 responses) with every method in
turn, from the same parameters. Ratios are medians over the passes of ratios within a pass; the critic's own work (its
values, advantages and regression) is timed apart and left out of PPO's. `REPEATS` in the environment changes the number
of passes (9).
"""

from __future__ import annotations

import copy
import os
import statistics
import time

import torch

from analysis.recipes import Recipe
from analysis.training.loop import Loop
from analysis.training.targets import fix_targets
from benchmarks.ratios import note_ratios

REPEATS = int(os.environ.get("REPEATS", "9"))
UPDATES = 4  # a pass
METHODS = {
    "REINFORCE": {"objective.name": "reinforce"},
    "PSR, rows kept": {"objective.name": "psr"},
    "GRPO": {"objective.name": "grpo"},
    "PPO": {"objective.name": "reinforce", "critic.enabled": True},
}


def test_update_against_reinforce(benchmark, tmp_path):
    torch.set_num_threads(1)
    loops, batches, starts = {}, {}, {}
    for name, values in METHODS.items():
        recipe = Recipe.load("default").set(**{"grid": "unset", "record.contexts": 0, "record.tokens": 0.0, **values})
        (planned,) = recipe.expand()
        loop = loops[name] = Loop(planned.config, tmp_path / name, run_id="r", label=name)
        loop.on_update = lambda index, batch, targets, result, name=name: batches.setdefault(name, (batch, targets))
        loop._one_step()
        starts[name] = copy.deepcopy(loop.policy.model.state_dict())
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    critic: list[float] = []

    def one(name):
        loop, (batch, targets) = loops[name], batches[name]
        loop.policy.model.load_state_dict(starts[name])
        own = 0.0
        if loop.critic is not None:
            fit = loop.critic.fit

            def timed(*arguments):
                nonlocal own
                start = time.process_time()
                value = fit(*arguments)
                own += time.process_time() - start
                return value

            loop.critic.fit = timed
        start = time.process_time()
        for rows in torch.arange(len(batch)).tensor_split(UPDATES):
            loop.updater.apply(batch, targets, rows, None, "update")
        seconds[name].append(time.process_time() - start - own)
        if loop.critic is not None:
            loop.critic.fit = fit
            start = time.process_time()
            fix_targets(batch, [[torch.arange(len(batch))]], loop.updater, None)
            critic.append(own + time.process_time() - start)

    def interleaved():
        for _ in range(REPEATS):
            for name in METHODS:
                one(name)

    for name in METHODS:
        one(name)
        seconds[name].clear()
    benchmark.pedantic(interleaved, rounds=1, iterations=1)
    each = {name: [one_pass / UPDATES for one_pass in passes] for name, passes in seconds.items()}
    critic_seconds = statistics.median(critic) / UPDATES
    note_ratios(benchmark, each, "REINFORCE", "seconds", critic_seconds=critic_seconds)
    print(f"the critic's own work: {1000 * critic_seconds:.0f} ms an update")
