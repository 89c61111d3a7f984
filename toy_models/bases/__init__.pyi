from .cache import base_is_cached as base_is_cached
from .cache import ensure_base as ensure_base
from .recipes import BASES as BASES
from .recipes import BaseRecipe as BaseRecipe
