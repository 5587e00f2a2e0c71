"""From syntax to a `Spec`: expressions, declarations, order blocks."""
