"""Numbers as a report writes them; expected texts worked out by hand."""

from __future__ import annotations

import math

import pytest

from gradaxis.reports.format import clean_text, format_interval, format_list, format_number, format_share, shorten


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1.00"),
        (12.345, "12.3"),
        (123.45, "123"),
        (1234.5, "1230"),
        (99950.0, "1.00 × 10⁵"),  # rounds to 100000 at three digits
        (99940.0, "99900"),
        (0.99951, "1.00"),  # the rounded size decides the decimals: 1.000 would be four digits
        (-0.05, "−0.0500"),
        (0.00012345, "0.000123"),
        (2.5e-7, "2.50 × 10⁻⁷"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.9, 1.1, "[0.900, 1.10]"),
        (12.0, math.inf, "[12.0, ∞)"),
        (-math.inf, 3.0, "(−∞, 3.00]"),
        (-math.inf, math.inf, "(−∞, ∞)"),
        (None, None, ""),
        (math.nan, 2.0, "(−∞, 2.00]"),
    ],
)
def test_interval(low: float | None, high: float | None, text: str) -> None:
    assert format_interval(low, high) == text


def test_share_and_list() -> None:
    assert format_share(0.5) == "50.0 %"
    assert format_share(1.0) == "100 %"
    assert format_list([]) == ""
    assert format_list(["a"]) == "a"
    assert format_list(["a", "b"]) == "a and b"
    assert format_list(["a", "b", "c", "d"], limit=3) == "a, b, c and 1 more"


def test_control_characters_are_removed() -> None:
    # an escape sequence, a right-to-left override and a zero-width joiner; the line break becomes a space
    assert clean_text("a\x1b[31m\u202eb\u200dc\nd") == "a[31mbc d"


def test_shorten_keeps_both_ends() -> None:
    label = "dapo[trust_region.high=0.3]"
    short = shorten(label, limit=16)
    assert len(short) == 16
    assert label.startswith(short.split("…")[0])
    assert label.endswith(short.split("…")[1])
    assert shorten("grpo") == "grpo"
