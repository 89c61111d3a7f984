"""verl's whole trainer on a CPU, with a tiny model and a small task.

`python -m analysis.engines.verl --smoke` runs `verl.trainer.main_ppo` as it runs on GPUs: Ray, the synchronous V1
trainer, TransferQueue, FSDP2, a rollout server, rewards, validation and checkpoints. What a CPU needs and verl does
not bring is here: a platform named `cpu` (`platform.py`), a rollout engine named `sample` (`rollout_engine.py`), a
model and a task (`model.py`, `task.py`). `settings.py` has the configuration, `run.py` the command, `child.py` the
process that it starts, and `summary.py` what it says at the end.
"""
