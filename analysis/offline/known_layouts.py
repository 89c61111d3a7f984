"""The layouts that public trainers, servers and evaluators write, each read or refused in its own words.

Some are flat, and only the names differ from the known ones; others are brought to flat columns by a function of
`unpacking` and its neighbours; of the rest the refusal says what is missing. `source` is the file that writes it in the
public repository, read in November 2026. Of several that fit, the first is taken.
"""

from __future__ import annotations

from ..errors import UsageError
from . import unpacking
from .layout import Layout, Rows
from .server_outputs import of_request_output, of_server_response
from .trainer_batches import of_experience, of_training_sample
from .trl_tables import repeated_rows
from .verifiers_traces import facts_of_episodes, of_episode

__all__ = ["LAYOUTS"]


def _one_filter(rows: Rows) -> None:
    filters = sorted({str(row.get("filter")) for row in rows})
    if len(filters) > 1:
        raise UsageError(
            f"rollouts: the samples of lm-evaluation-harness come once for each filter ({', '.join(filters)}), so that "
            "every response stands there several times; leave the rows of one filter"
        )


_SEQUENCE: dict[str, str | None] = {
    role: role
    for role in ("prompt_ids", "response_ids", "response_mask", "reward", "old_log_probs", "sampling_log_probs")
}
_PER_TOKEN = ("response_mask", "advantage", "old_log_probs", "sampling_log_probs")
_OF_TRACES = {
    role: role
    for role in (*_PER_TOKEN, "prompt", "response", "prompt_ids", "response_ids", "reward", "group", "step", "id")
}
_EXACT_TRACES = (
    "token ids are those that the model saw; log-probs of the engine that sampled stand for those of the trainer where "
    "these are not there, and verifiers 0.4 rounds both to four decimals"
)
_SERVER = (
    *("prompt", "response", "prompt_ids", "response_ids", "old_log_probs", "sampling_log_probs", "tools"),
    "template_arguments",
)
_RAW_LOG_PROBS = (
    "log-probs are read where token ids are; they are those of the logits before temperature and truncation, unless "
    "the server was told otherwise (vLLM: logprobs_mode)"
)
_TWO_IN_A_ROW = "chosen counts as rewarded (1), rejected as not (0); the two of a row are a group"

LAYOUTS = (
    Layout(
        "completions table of TRL",
        "trl",
        "huggingface/trl: trl/trainer/grpo_trainer.py, GRPOTrainer.log",
        ("step", "prompt", "completion", "advantage"),
        {"prompt": "prompt", "response": "completion", "advantage": "advantage", "step": "step"},
        decoded=True,
        ids_hint='call log_extra("completion_ids", completion_ids) in a reward function, which gets both as arguments',
        repeats=repeated_rows,
    ),
    Layout(
        "rollout dump of AReaL",
        "areal",
        "inclusionAI/AReaL: areal/infra/workflow_executor.py",
        ("task_id", "tail_version", "prompt", "completion", "reward"),
        {"response": "completion", "group": "task_id", "step": "tail_version"},
        note="the boundary of prompt and completion is right for one turn alone",
    ),
    Layout(
        "results of verifiers",
        "verifiers-results",
        "PrimeIntellect-ai/verifiers: verifiers/legacy/utils/save_utils.py",
        ("example_id", "prompt", "completion", "reward"),
        {"response": "completion", "group": "example_id"},
        unpack=unpacking.of_episode_turns,
    ),
    Layout(
        "episodes of verifiers and prime-rl",
        "verifiers",
        "PrimeIntellect-ai/verifiers: verifiers/v1/episode.py, graph.py; prime-rl: src/prime_rl/monitors/file.py",
        ("traces", "env"),
        _OF_TRACES,
        unpack=of_episode,
        facts=facts_of_episodes,
        note=_EXACT_TRACES,
    ),
    Layout(
        "single traces of verifiers",
        "verifiers-traces",
        "PrimeIntellect-ai/verifiers: verifiers/v1/trace.py, Trace.to_record",
        ("nodes", "calls", "rewards", "task"),
        _OF_TRACES,
        unpack=of_episode,
        facts=facts_of_episodes,
        note=_EXACT_TRACES,
    ),
    Layout(
        "platform table of prime-rl",
        "prime-platform",
        "PrimeIntellect-ai/prime-rl: src/prime_rl/monitors/prime.py",
        ("run_id", "sample_id", "trajectory", "completion"),
        refusal="its prompt is empty and its turns are JSON text; give prime-rl's traces.jsonl or its token exports "
        "(enable_token_export)",
    ),
    Layout(
        "token export of prime-rl",
        "prime-tokens",
        "PrimeIntellect-ai/prime-rl: src/prime_rl/trainer/rl/token_export.py",
        ("schema_version", "token_ids", "loss_mask", "inference_logprobs"),
        {role: role for role in (*_PER_TOKEN, "prompt_ids", "response_ids")},
        unpack=unpacking.of_prime_export,
        facts=unpacking.facts_of_prime_export,
        note="token_ids are split at the first token of loss_mask; old log-probs are those of the inference engine",
    ),
    Layout(
        "training data of NeMo-RL",
        "nemo-rl",
        "NVIDIA-NeMo/RL: nemo_rl/algorithms/grpo.py, log_batched_dict_as_jsonl",
        ("token_ids", "token_loss_mask", "rewards"),
        {role: role for role in (*_PER_TOKEN, "prompt_ids", "response_ids", "reward")},
        unpack=unpacking.of_nemo,
        note="token_ids are split at the first token of token_loss_mask",
    ),
    Layout(
        "validation data of NeMo-RL",
        "nemo-rl-validation",
        "NVIDIA-NeMo/RL: nemo_rl/algorithms/grpo.py, validate",
        ("content", "rewards"),
        {"prompt": "prompt", "response": "response", "reward": "reward"},
        without=("input_lengths",),
        unpack=unpacking.of_messages,
    ),
    Layout(
        "training data of NeMo-RL without token ids",
        "nemo-rl-texts",
        "NVIDIA-NeMo/RL: nemo_rl/algorithms/grpo.py",
        ("content", "rewards", "input_lengths"),
        refusal="its content is prompt and response in one text; log token_ids and token_loss_mask as well",
    ),
    Layout(
        "rollouts of open-instruct",
        "open-instruct",
        "allenai/open-instruct: open_instruct/rl_utils.py, RolloutRecord",
        ("prompt_tokens", "response_tokens", "prompt_idx"),
        {
            **{"prompt_ids": "prompt_tokens", "response_ids": "response_tokens", "group": "prompt_idx"},
            **{"old_log_probs": "logprobs", "answer": None},
        },
        unpack=unpacking.of_open_instruct,
    ),
    Layout(
        "samples of slime or miles",
        "slime",
        "THUDM/slime: slime/utils/types.py, Sample",
        ("tokens", "response_length"),
        {
            **{role: role for role in ("prompt_ids", "response_ids", "response_mask")},
            **{"old_log_probs": "rollout_log_probs", "answer": "label", "id": "index"},
        },
        unpack=unpacking.of_sample,
        facts=unpacking.facts_of_samples,
        note="the last response_length of tokens are the response",
    ),
    Layout(
        "training data of slime",
        "slime-training",
        "THUDM/slime: slime/observability/train_data_utils.py, save_debug_train_data",
        ("tokens", "response_lengths", "loss_masks"),
        {role: role for role in (*_PER_TOKEN, "prompt_ids", "response_ids", "reward", "step")} | {"id": "sample_index"},
        unpack=of_training_sample,
        note="the last response_lengths of tokens are the response; rewards are raw_reward, before any normalisation",
    ),
    Layout(
        "experience of OpenRLHF",
        "openrlhf",
        "OpenRLHF/OpenRLHF: openrlhf/trainer/ppo_utils/experience.py, Experience",
        ("sequences", "action_mask"),
        {role: role for role in (*_PER_TOKEN, "prompt_ids", "response_ids", "reward", "prompt", "answer")},
        unpack=of_experience,
        note="action_mask and what goes with it are aligned with the ends of the sequences",
    ),
    Layout(
        "outputs of vLLM",
        "vllm",
        "vllm-project/vllm: vllm/outputs.py, RequestOutput",
        ("prompt_token_ids", "outputs"),
        {role: role for role in _SERVER} | {"id": "request_id"},
        unpack=of_request_output,
        note=_RAW_LOG_PROBS,
    ),
    Layout(
        "sequences with labels",
        "labels",
        "huggingface/transformers: src/transformers/data/data_collator.py",
        ("input_ids", "labels"),
        _SEQUENCE,
        without=("prompt_ids", "response_ids", "prompt", "response", "completion"),
        unpack=unpacking.of_sequence,
        note="input_ids are split at the first token that is trained on",
    ),
    Layout(
        "sequences with a mask",
        "sequences",
        "inclusionAI/AReaL: areal/infra/workflow_executor.py, trajectories",
        ("input_ids", "loss_mask"),
        _SEQUENCE,
        without=("prompt_ids", "response_ids", "prompt", "response", "completion", "labels"),
        unpack=unpacking.of_sequence,
        note="input_ids are split at the first token of loss_mask",
    ),
    Layout(
        "evaluation dump of SkyRL",
        "skyrl",
        "NovaSky-AI/SkyRL: skyrl/train/utils/trainer_utils.py",
        ("input_prompt", "output_response", "score"),
        {"prompt": "input_prompt", "response": "output_response", "reward": "score"},
        unpack=unpacking.of_skyrl,
        note="which tokens of several turns an environment wrote is not said: all count as the policy's",
    ),
    Layout(
        "rollout dump of ROLL",
        "roll",
        "alibaba/ROLL: roll/pipeline/rlvr/utils.py",
        ("prompt", "responses", "scores", "global_step"),
        {"response": "responses", "reward": "scores", "answer": "ground_truth", "step": "global_step", "group": "id"},
        decoded=True,
    ),
    Layout(
        "samples of lm-evaluation-harness",
        "lm-eval",
        "EleutherAI/lm-evaluation-harness: lm_eval/evaluator.py",
        ("doc_id", "arguments", "resps"),
        {"prompt": "prompt", "response": "response", "group": "doc_id", "answer": "target"},
        unpack=unpacking.of_lm_eval,
        check=_one_filter,
    ),
    Layout(
        "details of lighteval",
        "lighteval",
        "huggingface/lighteval: src/lighteval/logging/info_loggers.py",
        ("doc", "model_response", "metric"),
        {"prompt": "prompt", "response": "response", "group": "group"},
        unpack=unpacking.of_lighteval,
    ),
    Layout(
        "details of an older lighteval",
        "lighteval-old",
        "huggingface/lighteval: src/lighteval/logging/info_loggers.py before 0.10",
        ("full_prompt", "predictions", "gold"),
        {"prompt": "full_prompt", "response": "predictions", "answer": "gold"},
    ),
    Layout(
        "results of simple-evals",
        "simple-evals",
        "openai/simple-evals: simple_evals.py",
        ("score", "metrics", "htmls", "convos"),
        refusal="its one score is that of the whole evaluation; write a row for each of convos, with the last message "
        "as response, those before as prompt, and its own reward",
    ),
    Layout(
        "log of Inspect",
        "inspect",
        "UKGovernmentBEIS/inspect_ai: src/inspect_ai/log/_log.py",
        ("input", "target", "output.choices", "scores"),
        refusal="write a row for each of its samples: prompt from input, response from output.completion, reward from "
        "scores",
    ),
    Layout(
        "batch output of OpenAI",
        "openai-batch",
        "platform.openai.com/docs/guides/batch; vllm-project/vllm: vllm/entrypoints/openai/run_batch.py",
        ("custom_id", "response.body.choices"),
        {role: role for role in _SERVER} | {"id": "custom_id"},
        unpack=of_server_response,
        note=_RAW_LOG_PROBS,
    ),
    Layout(
        "responses of OpenAI-compatible servers",
        "openai",
        "vllm-project/vllm: vllm/entrypoints/openai/chat_completion/protocol.py, completion/protocol.py",
        ("object", "choices"),
        {role: role for role in _SERVER} | {"id": "id"},
        unpack=of_server_response,
        note=_RAW_LOG_PROBS,
    ),
    Layout(
        "requests with responses of OpenAI-compatible servers",
        "openai-pairs",
        "vllm-project/vllm: vllm/entrypoints/openai/chat_completion/protocol.py, completion/protocol.py",
        ("response.choices",),
        {role: role for role in _SERVER},
        unpack=of_server_response,
        note=_RAW_LOG_PROBS,
    ),
    Layout(
        "batch input of OpenAI",
        "openai-requests",
        "platform.openai.com/docs/guides/batch",
        ("custom_id", "url", "body.messages"),
        refusal="it has requests and no responses",
    ),
    Layout(
        "results of Qwen2.5-Math's evaluation",
        "qwen-math",
        "QwenLM/Qwen2.5-Math: evaluation/math_eval.py",
        ("question", "code", "pred", "gt"),
        {"prompt": "question", "response": "code", "reward": "score", "answer": "gt"},
        note="question is the problem without the template that the model saw",
    ),
    Layout(
        "generations of Open-R1",
        "open-r1",
        "huggingface/open-r1: scripts/generate_reasoning.py; datasets open-r1/OpenR1-Math",
        ("problem", "generations"),
        {"prompt": "problem", "response": "generations", "reward": "correctness_math_verify"},
    ),
    Layout(
        "generation output of verl",
        "verl-generations",
        "verl-project/verl: verl/trainer/main_generation_server.py",
        ("prompt", "responses"),
        {"response": "responses", "answer": "reward_model.ground_truth"},
    ),
    Layout(
        "rollout dump of verl",
        "verl",
        "verl-project/verl: verl/trainer/ppo/v1/trainer_base.py, _write_generations",
        ("input", "output", "gts", "score"),
        {"prompt": "input", "response": "output", "reward": "score", "answer": "gts"},
        decoded=True,
        ids_hint="watch the training itself (analysis.engines.verl), whose records have the ids that it saw",
    ),
    Layout(
        "instructions in Alpaca's layout",
        "alpaca",
        "tatsu-lab/stanford_alpaca: README.md",
        ("instruction", "output"),
        refusal="the prompt is made of instruction and input by a template that the file does not say; write it into a "
        "column prompt",
    ),
    Layout(
        "pairs of preferences",
        "pairs",
        "huggingface/trl: docs/source/dataset_formats.md",
        ("chosen", "rejected"),
        {role: role for role in ("prompt", "response", "reward")},
        unpack=unpacking.of_pair,
        note=_TWO_IN_A_ROW,
    ),
    Layout(
        "unpaired preferences",
        "preferences",
        "huggingface/trl: docs/source/dataset_formats.md",
        ("prompt", "completion", "label"),
        {"response": "completion", "reward": "label"},
        without=("reward", "score", "advantage"),
    ),
    Layout(
        "conversations of ShareGPT",
        "sharegpt",
        "lm-sys/FastChat: docs/training.md",
        ("conversations",),
        {"prompt": "prompt", "response": "response"},
        without=("prompt", "response", "completion", "response_ids"),
        unpack=unpacking.of_share_gpt,
        note="the last message is the response",
    ),
    Layout(
        "chat messages",
        "chat",
        "platform.openai.com/docs/guides/supervised-fine-tuning",
        ("messages",),
        {"prompt": "prompt", "response": "response"},
        without=("prompt", "response", "completion", "response_ids", "input", "output"),
        unpack=unpacking.of_messages,
        note="the last message is the response; with turns of tools or weights of messages, all of the policy's are",
    ),
    Layout(
        "dialogues",
        "dialogue",
        "platform.openai.com/docs/guides/supervised-fine-tuning",
        ("messages",),
        {"prompt": "prompt", "response": "response"},
        unpack=unpacking.of_dialogue,
        note="every turn of the assistant is the policy's",
        forced=True,
    ),
)
