from analysis import *  # noqa: F403 - the same names
