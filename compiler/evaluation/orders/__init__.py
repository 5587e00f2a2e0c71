"""Order blocks: run for every rank, every reference resolved to one operation."""
