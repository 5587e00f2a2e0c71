"""How a text is looked at."""

from typing import NamedTuple


class Look(NamedTuple):
    """Columns of the terminal, and whether it shows colour."""

    width: int = 100
    colour: bool = False
