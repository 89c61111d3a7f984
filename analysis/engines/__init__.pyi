from .any_trainer import TrainerWatch as TrainerWatch
from .objective_trainer import ObjectiveTrainer as ObjectiveTrainer
from .trl_watch import Watch as Watch
from .watch import watch as watch
