from .cache import BASES as BASES
from .cache import BaseRecipe as BaseRecipe
from .cache import base_is_cached as base_is_cached
from .cache import ensure_base as ensure_base
