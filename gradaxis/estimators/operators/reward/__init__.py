"""Operators of the six reward slots, one module a slot."""
