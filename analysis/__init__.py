"""What a positive or a negative sample does to a policy: gradient dynamics of RL with verifiable rewards.

The public names and their types are listed in `__init__.pyi`; each is imported from its package on first use, so that
command lines can print their help, list recipes and refuse bad input without loading torch.
"""

import sys

from .version import __version__


def _refuse(problem):
    """Stop with one readable message: a traceback of ours would hide it from someone who ran `python -m analysis.…`."""
    message = "rlvr-dynamics: {} (this is {}, Python {}.{})".format(problem, sys.executable, *sys.version_info[:2])
    if sys.argv[:1] == ["-m"]:
        sys.stderr.write("error: " + message + "\n")
        sys.exit(2)
    raise ImportError(message)


if sys.version_info < (3, 11):  # noqa: UP036 - the message for a Python that is too old must not need a new one
    _refuse("expected Python 3.11 or newer")
try:
    import lazy_loader
except ModuleNotFoundError:
    _refuse(
        "the dependencies are missing from this Python; activate the project's environment "
        "(source .venv/bin/activate), or install the package with pip install -e ."
    )

from .common.signals import stop_before_start  # noqa: E402 - after the checks above

stop_before_start()

from .records.reporting import register_reporter  # noqa: E402

__getattr__, _, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]


def _report(trace, figures=None, *, each_run=False):
    from .report import report

    return report(trace, figures, each_run=each_run)


register_reporter(_report)  # for Run.report and Experiment.report: records know nothing of the package above them


def __dir__():
    return sorted(__all__)
