from .experiment import RunFailedError as RunFailedError
from .experiment import run as run
from .many_runs import train_runs as train_runs
from .pool import Outcome as Outcome
