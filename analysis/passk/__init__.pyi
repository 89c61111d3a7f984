from .curves import CurveCrossing as CurveCrossing
from .curves import PassCurves as PassCurves
from .curves import pass_curves as pass_curves
from .graded import Graded as Graded
from .graded import read_graded as read_graded
