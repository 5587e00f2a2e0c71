"""Orders by constraint programming (OR-Tools CP-SAT)."""
