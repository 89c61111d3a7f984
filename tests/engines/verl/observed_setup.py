"""A tiny model, batches of fixed rollouts and verl's own worker around an engine: verl's training without Ray.

The batches have what verl's V1 trainer hands to its workers: jagged rows of prompts, responses, masks, rewards,
advantages and log-probs, uids, sessions and dataset indices, and now and then a padding row.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "VERL_PLATFORM": "cpu",
    "VERL_ENGINE_DEVICE": "cuda",
    "CUDA_VISIBLE_DEVICES": "",
    "WG_BACKEND": "ray",
    "TOKENIZERS_PARALLELISM": "false",
}
VOCAB, CLIP_GRAD, LR = 53, 0.5, 1e-3


def prepare(vendor: str | None = "dynamics") -> None:
    """Choose the platform `cpu` and the engine; before anything imports verl."""
    os.environ.update(ENVIRONMENT)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "0")):
        os.environ.setdefault(name, value)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        store = Path(tempfile.mkdtemp(prefix="store-")) / "store"
        os.environ["DIST_INIT_METHOD"] = f"file://{store}"
    choose_engine(vendor)


def choose_engine(vendor: str | None) -> None:
    """The observing engine, or verl's own."""
    os.environ.pop("VERL_ENGINE_VENDOR", None)
    if vendor is not None:
        os.environ["VERL_ENGINE_VENDOR"] = vendor


def make_model(folder: Path, tied: bool = False) -> Path:
    """Save a random Llama of two layers with a tokenizer of one token for each word."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from toy_models.tasks.tokenizer import word_tokenizer

    words = word_tokenizer(["<pad>", "<end>", *(f"w{i}" for i in range(VOCAB - 3)), "<unk>"], pad="<pad>", eos="<end>")
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.12,
        tie_word_embeddings=tied,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def actor_config(**changes: Any) -> Any:
    """verl's configuration of the actor's loss."""
    from verl.workers.config import FSDPActorConfig

    return FSDPActorConfig(
        **{
            "strategy": "fsdp2",
            "rollout_n": 4,
            "ppo_mini_batch_size": 2,
            "ppo_micro_batch_size_per_gpu": 2,
            "use_dynamic_bsz": False,
            **changes,
        }
    )


def make_worker(
    model: Path,
    record: dict[str, Any] | None,
    loss: Any,
    *,
    packed: bool = True,
    fused: bool = False,
    total_steps: int = -1,
    engine: dict[str, Any] | None = None,
    hf: dict[str, Any] | None = None,
    model_type: str = "language_model",
) -> Any:
    """verl's worker of an actor with its engine; `record` is None for verl's own engine."""
    from verl.trainer.config import CheckpointConfig
    from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig, TrainingWorkerConfig
    from verl.workers.engine_workers import TrainingWorker

    from analysis.engines.verl import ObservedEngineConfig

    settings: dict[str, Any] = {
        "strategy": "fsdp2",
        "use_torch_compile": False,
        "mixed_precision": {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
        "use_dynamic_bsz": False,
        "micro_batch_size_per_gpu": 2,
        "infer_micro_batch_size_per_gpu": 2,
        **(engine or {}),
    }
    kind = FSDPEngineConfig if record is None else partial(ObservedEngineConfig, record=record)
    config = TrainingWorkerConfig(
        model_type=model_type,
        model_config=HFModelConfig(
            path=str(model),
            use_remove_padding=packed,
            enable_gradient_checkpointing=False,
            override_config={"attn_implementation": "sdpa"},
            use_fused_kernels=fused,
            fused_kernel_options={"impl_backend": "torch"} if fused else {},
            **(hf or {}),
        ),
        engine_config=kind(**settings),
        optimizer_config=FSDPOptimizerConfig(
            lr=LR, weight_decay=0.01, clip_grad=CLIP_GRAD, total_training_steps=total_steps, lr_warmup_steps=0
        ),
        checkpoint_config=CheckpointConfig(),
    )
    worker = TrainingWorker(config)
    worker.reset()
    worker.set_loss_fn(loss)
    return worker


def make_rows(step: int, *, prompts: int = 4, per_prompt: int = 4, padding: int = 0, kl: bool = False) -> list[dict]:
    """Rollouts of a step: the same whatever the number of processes. Rewards are 0 or 1."""
    import torch

    generator = torch.Generator().manual_seed(1000 + step)

    def draw(low: int, high: int, *shape: int) -> Any:
        return torch.randint(low, high, shape, generator=generator)

    rows = []
    for prompt in range(prompts):
        question = draw(2, VOCAB - 1, int(draw(2, 6, 1)))
        for session in range(per_prompt):
            length = int(draw(1, 8, 1))
            response = draw(2, VOCAB - 1, length)
            if session % 2 == 0:
                response[-1] = 1  # the end token
            mask = torch.ones(length, dtype=torch.long)
            if session == 3 and length > 3:
                mask[1:3] = 0  # what a tool wrote
            reward = torch.zeros(length)
            reward[-1] = float((session + prompt) % 2)
            rows.append(
                {
                    "prompts": question,
                    "responses": response,
                    "response_mask": mask,
                    "loss_mask": mask,
                    "rm_scores": reward,
                    "advantages": (2 * reward[-1] - 1 + 0.1 * prompt).expand(length).clone() * mask,
                    "uid": f"{step}-{prompt}",
                    "session_id": session,
                    "index": prompt,
                    "global_steps": step,
                    "reward_model": {"ground_truth": f"answer {prompt}"},
                }
            )
    for number in range(padding):
        rows.append(
            {
                **rows[0],
                "prompts": torch.full((12,), 1),
                "responses": torch.ones(1, dtype=torch.long),
                "response_mask": torch.zeros(1, dtype=torch.long),
                "loss_mask": torch.zeros(1, dtype=torch.long),
                "rm_scores": torch.zeros(1),
                "advantages": torch.zeros(1),
                "uid": "padabc",
                "session_id": number,
            }
        )
    for row in rows:
        length = len(row["responses"])
        row["input_ids"] = torch.cat([row["prompts"], row["responses"]])
        row["position_ids"] = torch.arange(len(row["input_ids"]))
        row["old_log_probs"] = -4.0 + 0.25 * torch.randn(length, generator=generator)
        row["rollout_log_probs"] = row["old_log_probs"] + 0.01
        row["entropy"] = torch.rand(length, generator=generator)
        if kl:
            row["ref_log_prob"] = -4.0 + 0.25 * torch.randn(length, generator=generator)
    return rows


def make_batch(rows: list[dict], **told: Any) -> Any:
    """The rows as verl's TensorDict, jagged whatever their lengths, with what verl's trainer tells."""
    import torch
    from tensordict import NonTensorStack, TensorDict
    from verl.utils import tensordict_utils as tu

    columns: dict[str, Any] = {}
    for key, value in rows[0].items():
        values = [row[key] for row in rows]
        if isinstance(value, torch.Tensor) and value.ndim == 0:
            columns[key] = torch.stack(values)
        elif isinstance(value, torch.Tensor):
            columns[key] = torch.nested.as_nested_tensor(values, layout=torch.jagged)
        else:
            columns[key] = NonTensorStack(*values)
    data = TensorDict(columns, batch_size=[len(rows)])
    tu.assign_non_tensor(data, **told)
    return data


def told(rows: int, *, mini: int, temperature: float = 1.0, entropy: bool = False, epochs: int = 1) -> dict[str, Any]:
    """What verl's trainer tells with a batch (`_update_actor`)."""
    return {
        "calculate_entropy": entropy,
        "distillation_use_topk": False,
        "distillation_only": False,
        "global_batch_size": mini,
        "mini_batch_size": mini,
        "epochs": epochs,
        "seed": 42,
        "dataloader_kwargs": {"shuffle": False},
        "temperature": temperature,
    }
