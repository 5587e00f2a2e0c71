"""A plan as start times with the evidence for its lower bound."""
