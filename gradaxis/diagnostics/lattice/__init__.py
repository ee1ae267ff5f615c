"""The lattice of hybrids between methods: what each choice does to a gradient, beside all of the others."""

from gradaxis.diagnostics.lattice.cells import Cell, CellPlan, Unmade, plan_cells
from gradaxis.diagnostics.lattice.hybrids import Lattice, build_lattice, identify, shapley_weights
from gradaxis.diagnostics.lattice.measured import BEND, GAIN, NOISE, Measured, measure_plan
from gradaxis.diagnostics.lattice.values import Values

__all__ = [
    "BEND", "GAIN", "NOISE", "Cell", "CellPlan", "Lattice", "Measured", "Unmade", "Values",
    "build_lattice", "identify", "measure_plan", "plan_cells", "shapley_weights",
]  # fmt: skip
