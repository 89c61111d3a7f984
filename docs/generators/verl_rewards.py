"""The reward of the runs that compare verl with our own loop: what the task's own verifier says of the exact tokens.

verl gives reward functions the text of a response without special tokens, from which it cannot be told whether the
response ended by itself. A reward manager gets the tokens.
"""

from __future__ import annotations

from typing import Any

from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

__all__ = ["TaskRewards"]


class TaskRewards(NaiveRewardManager):  # type: ignore[misc, unused-ignore]
    """1 where the task calls a response correct, else 0; the task's name is verl's `data_source`."""

    async def run_single(self, data: Any) -> dict[str, Any]:
        """The reward of one response, as verl asks for it."""
        from toy_models.tasks.registry import built_in_task

        item = data[-1]
        mask = item.batch["attention_mask"].bool()
        asked = item.batch["prompts"].shape[-1]
        prompt = item.batch["prompts"][mask[:asked]].tolist()
        response = item.batch["responses"][mask[asked:]].tolist()
        correct = built_in_task(item.non_tensor_batch["data_source"]).verify(prompt, response).correct
        return {"reward_score": float(correct), "reward_extra_info": {"acc": float(correct)}}
