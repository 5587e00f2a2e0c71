"""`python -m stretto.grammar` writes the parser's table anew, after the grammar has changed."""

from pathlib import Path

from stretto.grammar import make_table

Path(__file__).with_name("table.json").write_text(make_table(), "utf-8")
