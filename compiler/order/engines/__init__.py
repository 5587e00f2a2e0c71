"""The engines of the search, a module each."""
