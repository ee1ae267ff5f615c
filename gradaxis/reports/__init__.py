"""Reports written from stored measurements."""

from gradaxis.reports.write import write_report

__all__ = ["write_report"]
