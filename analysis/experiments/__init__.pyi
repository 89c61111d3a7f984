from .experiment import RunFailedError as RunFailedError
from .experiment import run as run
