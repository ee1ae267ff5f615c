"""How numbers, intervals and names are written: three significant digits, no false precision, no control characters."""

from __future__ import annotations

import math
import unicodedata

MINUS = "−"
MISSING = "–"
INFINITE = "∞"
_SCIENTIFIC_ABOVE = 1e5
_SCIENTIFIC_BELOW = 1e-4
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def format_number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits.

    None and NaN become an en dash, the infinities ±∞. From 10⁵ on, and below 10⁻⁴, a number is written as m × 10ᵏ.

    >>> format_number(0.012345), format_number(-1234.5), format_number(1.0), format_number(2.5e-7)
    ('0.0123', '−1230', '1.00', '2.50 × 10⁻⁷')
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return INFINITE if value > 0 else MINUS + INFINITE
    if value == 0:
        return "0"
    sign = MINUS if value < 0 else ""
    mantissa, exponent_text = f"{abs(value):.{digits - 1}e}".split("e")
    exponent = int(exponent_text)
    size = float(f"{mantissa}e{exponent}")
    if size >= _SCIENTIFIC_ABOVE or size < _SCIENTIFIC_BELOW:
        return f"{sign}{mantissa} × 10{str(exponent).translate(_SUPERSCRIPTS)}"
    return f"{sign}{size:.{max(digits - 1 - exponent, 0)}f}"


def format_interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """`[low, high]`; an end that is missing or infinite makes the interval half-open. Empty when both are missing.

    >>> format_interval(0.9, 1.104), format_interval(12.0, float("inf")), format_interval(None, None)
    ('[0.900, 1.10]', '[12.0, ∞)', '')
    """
    if _absent(low) and _absent(high):
        return ""
    left = f"({MINUS}{INFINITE}" if _absent(low) or math.isinf(low or 0.0) else f"[{format_number(low, digits)}"
    right = f"{INFINITE})" if _absent(high) or math.isinf(high or 0.0) else f"{format_number(high, digits)}]"
    return f"{left}, {right}"


def format_share(value: float | None) -> str:
    """A share as a percentage with at most three significant digits; positive ones below 0.01 % only as such.

    >>> format_share(0.1234), format_share(1.0), format_share(1e-8), format_share(None)
    ('12.3 %', '100 %', '< 0.01 %', '–')
    """
    if value is None or math.isnan(value):
        return MISSING
    return "< 0.01 %" if 0 < value < 1e-4 else f"{format_number(100.0 * value)} %"


def format_list(names: list[str] | tuple[str, ...], limit: int | None = None) -> str:
    """Names as running text: `a`, `a and b`, `a, b and c`; beyond `limit` the rest is counted.

    >>> format_list(["a", "b", "c"]), format_list(["a", "b", "c", "d"], limit=2)
    ('a, b and c', 'a, b and 2 more')
    """
    shown = list(names)
    if limit is not None and len(shown) > limit:
        shown = [*shown[:limit], f"{len(names) - limit} more"]
    if len(shown) < 2:
        return "".join(shown)
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def clean_text(value: object) -> str:
    """Text from a model, a file or a user without control, format or surrogate characters, which no page should carry.

    Escaping for HTML or Markdown is done where the text is drawn. A line break becomes a space.
    """
    text = str(value).replace("\n", " ").replace("\t", " ")
    return "".join(character for character in text if unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co"})


def shorten(label: str, limit: int = 22) -> str:
    """A label that fits a figure: the middle of a long one gives way to an ellipsis.

    >>> shorten("dapo[trust_region.high=0.3]", limit=16)
    'dapo[tr…igh=0.3]'
    """
    if len(label) <= limit:
        return label
    head = (limit - 1) // 2
    return f"{label[:head]}…{label[-(limit - 1 - head) :]}"


def _absent(value: float | None) -> bool:
    return value is None or math.isnan(value)
