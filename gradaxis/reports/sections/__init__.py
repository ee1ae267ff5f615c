"""The sections of a report, each built from stored rows as blocks of text, tables and figures."""
