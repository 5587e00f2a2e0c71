"""The commands of `stretto`, a file each: `run(arguments)` does it and returns the exit code."""
