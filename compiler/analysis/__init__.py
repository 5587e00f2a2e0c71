"""Where a plan's time goes, and what would shorten it."""
