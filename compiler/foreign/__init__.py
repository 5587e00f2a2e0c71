"""Other systems' files: a file per format, to a Schedule or a Program."""
