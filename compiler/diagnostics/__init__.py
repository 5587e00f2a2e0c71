"""What is wrong with a file, as values, and how it is printed."""
