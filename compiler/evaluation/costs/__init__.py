"""CostTable, sizes, limits and transfers: statements to tables of whole ticks and grains."""
