"""Estimators compiled from registry entries, and the policies and rollouts that they are evaluated on."""

from gradaxis.estimators.coefficients import Coefficients
from gradaxis.estimators.compile import CompiledEstimator, compile
from gradaxis.estimators.contract import contract_batch
from gradaxis.estimators.weights import Weight

__all__ = ["Coefficients", "CompiledEstimator", "Weight", "compile", "contract_batch"]
