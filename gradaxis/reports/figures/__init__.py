"""Drawings of the report: each takes plain numbers and returns a function that draws on a matplotlib figure."""
