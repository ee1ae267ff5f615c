"""Operators of the trajectory slots, one module a slot. Those of `sampling` have no function: the sampler acts."""
