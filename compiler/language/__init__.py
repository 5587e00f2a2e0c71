"""Text → `Schedule`: the syntax of a file, checked against the grammar and nothing else.

In: a `Source` (the text and the name that messages show). Out: frozen nodes (`syntax`), each with
its `Span`; nothing is evaluated. Promised: a text that does not parse raises one `Rejected` with
every mistake in it, and what any text can cost is bounded (characters, words, nesting).
"""

from stretto.compiler.language.parse import parse, parse_costs

__all__ = ["parse", "parse_costs"]
