"""Amounts of memory as people write them."""

from __future__ import annotations

import re

UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_memory(text: str | int | None) -> int | None:
    """Bytes of `6GB`, `512 MiB` or a plain number. Raises ValueError for anything else.

    >>> parse_memory("6GB"), parse_memory("0.5 GiB"), parse_memory(None)
    (6000000000, 536870912, None)
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([a-z]*)", str(text).strip().lower())
    if found is None or found[2] not in UNITS or float(found[1]) <= 0:
        raise ValueError("a number of bytes, such as 6GB or 512MiB")
    return int(float(found[1]) * UNITS[found[2]])
