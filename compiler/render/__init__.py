"""Text in the formats of diagnostics: a file each, from a `Diagnostic` to a string."""
