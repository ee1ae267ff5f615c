"""Colours of the report's figures: each is drawn as a key and becomes a CSS variable, so that figures follow the theme.

The qualitative colours are Okabe and Ito's, which colour-blind readers can tell apart; markers differ too, so that no
figure rests on colour alone. Diverging colours run from vermilion over the page's background to blue.
"""

from __future__ import annotations

from collections.abc import Sequence

INK = "#0a0a01"
MUTED = "#0a0a02"
GRID = "#0a0a03"
PAPER = "#0a0a04"
BLUE = "#0a0a11"
VERMILION = "#0a0a12"
GREEN = "#0a0a13"
PURPLE = "#0a0a14"
ORANGE = "#0a0a15"
SKY = "#0a0a16"
YELLOW = "#0a0a17"

# Drawn colour -> CSS variable; the page's style sheet gives each a value for its light and its dark theme.
VARIABLES: dict[str, str] = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--rule",
    PAPER: "--paper",
    BLUE: "--blue",
    VERMILION: "--vermilion",
    GREEN: "--green",
    PURPLE: "--purple",
    ORANGE: "--orange",
    SKY: "--sky",
    YELLOW: "--yellow",
}

SERIES: tuple[str, ...] = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, YELLOW)
MARKERS: tuple[str, ...] = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*", "d")


def series_styles(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each label, in order; up to 91 labels differ from one another."""
    return {
        label: (SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)])
        for index, label in enumerate(dict.fromkeys(labels))
    }
