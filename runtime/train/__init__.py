"""`stretto run`: a model and data, trained by a plan."""
