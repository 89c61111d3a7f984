"""The factorial: which of the things that differ between PSR and NSR makes them differ, on policies that are exact."""

from .attribution import factor_shares, interactions
from .cells import METHODS, Cells, run_cells
from .factors import FACTORS, Factor, cell_name, full_factorial, one_factor_cells
from .method_gaps import gaps
from .problems import POLICIES, Problem, make_problem

__all__ = [
    "FACTORS",
    "METHODS",
    "POLICIES",
    "Cells",
    "Factor",
    "Problem",
    "cell_name",
    "factor_shares",
    "full_factorial",
    "gaps",
    "interactions",
    "make_problem",
    "one_factor_cells",
    "run_cells",
]
