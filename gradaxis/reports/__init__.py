"""Reports written from stored measurements."""
