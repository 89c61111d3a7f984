"""Small policies and tasks for reinforcement learning with verifiable rewards.

- Exact policies (`Bandit`, `LogLinear`, `Tree`): every probability, gradient and variance is computed, not sampled.
- Tasks (`Task`, `get_task`, `FileTask`, `TextTask`): prompts, a verifier and, where they can be listed, every correct
  response.
- Language models (`Policy`, `load_policy`, `sample`): small built-in bases, and any local Hugging Face model.

This package does not know how policies are analysed. Each name is imported from its module on first use, so that the
names of tasks and bases can be read without loading torch.
"""

from .interpreter import check_interpreter

check_interpreter()

import lazy_loader  # noqa: E402 - after the check above

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
