"""Nothing here needs torch."""
