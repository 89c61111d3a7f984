"""Public names of a package on first use, as in `toy_models`, whose helper this is."""

from toy_models.lazy import lazy_names

__all__ = ["lazy_names"]
