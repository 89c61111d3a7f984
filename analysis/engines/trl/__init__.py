"""TRL: `watch` for its trainers of rollouts, and `ObjectiveTrainer`, its `GRPOTrainer` with any objective."""
