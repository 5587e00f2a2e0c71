"""Models, features and schedules against one process: `make test-models` prints the table."""
