"""Operators of the trajectory slots, one module a slot. `sampling` has no functions: the sampler does what it declares."""
