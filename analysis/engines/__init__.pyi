from .any_trainer import TrainerWatch as TrainerWatch
from .trl.objective_trainer import ObjectiveTrainer as ObjectiveTrainer
from .trl.watch import Watch as Watch
from .watch import watch as watch
