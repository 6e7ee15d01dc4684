"""Everything at once, for minutes or for a breath."""
