from .config import config_from_dict as config_from_dict
from .config import config_to_dict as config_to_dict
from .fields import RunConfig as RunConfig
from .plan import Plan as Plan
from .plan import plan as plan
from .recipe import PlannedRun as PlannedRun
from .recipe import Recipe as Recipe
