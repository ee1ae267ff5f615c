"""Probes: what each method's gradient does, measured on a policy and its rollouts."""
