"""What the recipes for real models need by estimate: the table of docs/how_to/train_a_real_model.md."""

from __future__ import annotations

from pathlib import Path

from analysis.recipes import Recipe
from analysis.recipes.cost import duration_text
from analysis.recipes.devices import GPUS
from analysis.recipes.estimates import step_seconds
from analysis.recipes.memory import estimated_memory, size_text
from analysis.recipes.model_shape import model_shape

__all__ = ["FOLDER", "PROMPT", "RECIPES", "real_models_table"]

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
PROMPT = 256  # tokens of the prompts that the table is for; most problems of MATH are shorter
# The recipes, and the GPU that each is made for.
RECIPES = {
    "qwen2.5-0.5b_math": "L40S",
    "qwen2.5-1.5b_math": "A100",
    "qwen3-4b_math": "H200",
    "qwen2.5-math-7b_lora_math": "L40S",
}
_GIB = 1 << 30


def real_models_table() -> str:
    """A Markdown table: memory, disk and time of one run of each recipe."""
    lines = [
        "| recipe | weights | GPU | memory | of these weights and optimiser | largest phase | disk | a step |",
        "|:--|--:|:--|--:|--:|:--|--:|--:|",
    ]
    for name, gpu_name in RECIPES.items():
        config = Recipe.load(FOLDER / f"{name}.toml").expand()[-1].config
        shape = model_shape(config.policy.base)
        gpu = next(gpu for gpu in GPUS if gpu.name == gpu_name)
        response = config.rollout.max_new_tokens
        if shape is None or response is None or gpu.memory is None:
            raise ValueError(f"{name}: expected a model of known sizes, a bound of its responses and a GPU")
        memory = estimated_memory(config, shape, PROMPT, response)
        if memory.peak > gpu.memory:
            raise ValueError(f"{name}: expected at most {size_text(gpu.memory)}, got {memory.text()}")
        phase = max(memory.phases, key=lambda phase: memory.phases[phase])
        fixed = memory.parts["weights"] + memory.parts["optimiser"]
        cells = [
            f"`{name}`",
            f"{shape.parameters / 1e9:.1f}·10⁹",
            f"{gpu_name}, {gpu.memory // _GIB} GB",
            size_text(memory.peak),
            size_text(fixed),
            f"{phase}, {size_text(memory.phases[phase])}",
            size_text(max(2 * memory.state, memory.state + memory.checkpoint)),
            duration_text(step_seconds(config, shape, gpu, PROMPT, response)).removeprefix("about "),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
