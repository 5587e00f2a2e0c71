"""Pictures and listings of a Program: a file per format, a table of them here."""
