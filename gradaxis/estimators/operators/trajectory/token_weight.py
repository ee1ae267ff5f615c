"""Which positions carry gradient, and how much.

The empty slot gives every policy token the weight one. Observation tokens are never policy tokens: the mask leaves them
out before this slot is reached. No operator of this slot exists yet.
"""
