"""What a positive or a negative sample does to a policy: gradient dynamics of RL with verifiable rewards.

The public names and their types are listed in `__init__.pyi`; each is imported from its package on first use, so that
command lines can print their help, list recipes and refuse bad input without loading torch.
"""

from toy_models.interpreter import check_interpreter

check_interpreter()

import lazy_loader  # noqa: E402 - after the check above

from .common.signals import stop_before_start  # noqa: E402
from .version import __version__  # noqa: E402

stop_before_start()

from .records.reporting import register_diagnoser, register_reporter  # noqa: E402

__getattr__, _, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]


def _report(trace, figures=None, *, each_run=False):
    from .report import report

    return report(trace, figures, each_run=each_run)


def _diagnose(run, objective=None):
    from .diagnosis import diagnose

    return diagnose(run, objective=objective)


register_diagnoser(_diagnose)  # for Run.diagnose, likewise
register_reporter(_report)  # for Run.report and Experiment.report: records know nothing of the package above them


def __dir__():
    return sorted(__all__)
