"""The two axes, their slots, and the registry of methods that fills them. Imports no tensor library."""

from gradaxis.taxonomy.axes import AXES, SLOTS, Slot, axis_of
from gradaxis.taxonomy.comparison import Difference, compare, side_of
from gradaxis.taxonomy.declarations import OperatorDeclaration, ParameterDeclaration
from gradaxis.taxonomy.derivation import derive, reads_teacher
from gradaxis.taxonomy.entries import Compound, Entry, Failure
from gradaxis.taxonomy.methods import Method, Need, Placed, Removed, Side
from gradaxis.taxonomy.problems import Problem
from gradaxis.taxonomy.registry import Registry, load_registry
from gradaxis.taxonomy.selection import parse_override

__all__ = [
    "AXES", "SLOTS", "Compound", "Difference", "Entry", "Failure", "Method", "Need", "OperatorDeclaration",
    "ParameterDeclaration", "Placed", "Problem", "Registry", "Removed", "Side", "Slot", "axis_of", "compare",
    "derive", "load_registry", "parse_override", "reads_teacher", "side_of",
]  # fmt: skip
