from .objective_trainer import ObjectiveTrainer as ObjectiveTrainer
