"""Text → Schedule: the syntax tree, the parser, and its recovery from mistakes."""
