"""What does not fit."""

from typing import Any


class UnexpectedToken(Exception):
    """A word that the grammar does not take here."""

    def __init__(self, token: Any):
        super().__init__(token)
        self.token = token


class UnexpectedCharacters(Exception):
    """A character that begins no word."""

    def __init__(self, char: str, line: int, column: int, pos_in_stream: int):
        super().__init__(char)
        self.char, self.line, self.column, self.pos_in_stream = char, line, column, pos_in_stream
