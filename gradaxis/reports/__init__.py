"""Reports written from stored measurements."""

from gradaxis.reports.findings import derive_findings
from gradaxis.reports.results import Results, read_results
from gradaxis.reports.write import write_report

__all__ = ["Results", "derive_findings", "read_results", "write_report"]
