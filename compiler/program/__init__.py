"""Order → Program: instruction lists per rank, their clock and their figures."""
