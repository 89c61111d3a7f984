from .bandit import Bandit as Bandit
from .loglinear import LogLinear as LogLinear
from .tree import Tree as Tree
from .tree import tree_leaves as tree_leaves
