"""Small policies on which every probe can be checked: all that they can do is known exactly, and drawing is cheap."""

from gradaxis.diagnostics.testbeds.pipeline import draw, evidence, exact_directions, exact_numbers, gram_numbers
from gradaxis.diagnostics.testbeds.tables import TABLES, TESTBEDS, load_testbed

__all__ = [
    "TABLES",
    "TESTBEDS",
    "draw",
    "evidence",
    "exact_directions",
    "exact_numbers",
    "gram_numbers",
    "load_testbed",
]
