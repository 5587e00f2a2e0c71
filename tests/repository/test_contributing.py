"""CONTRIBUTING names rooms and files that are there, and the borders that the other test holds."""

import re

from tests.repository.test_borders import ROOMS
from tests.support.paths import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def test_the_table_of_rooms_is_that_of_the_borders() -> None:
    table = TEXT.split("<!-- rooms -->")[1].split("<!-- end of rooms -->")[0]
    rows = [line[1:-1].split("|") for line in re.findall(r"^\| `.*$", table, re.MULTILINE)]
    said = {cells[0].strip(" `"): {c.strip() for c in cells[3].split(",")} - {""} for cells in rows}
    held = {name: {r.removeprefix("compiler.") for r in may} for name, may in ROOMS.items()}
    assert said == held


def test_the_files_that_it_names_are_there() -> None:
    names = re.findall(r"`((?:[\w.-]+/)+[\w.-]*|\.[\w.-]+|[A-Z]\w+\.md)`", TEXT)
    made = {"build/", "build/types", "build/types/stretto/", ".venv", "schedules/NAME.pipe"}
    assert names
    assert not [n for n in names if n not in made and not (ROOT / n).exists()]
