"""The grammar of the schedule language, and its loader."""
