"""Program → the word about its receive slots, where an order needs more of them than was advised.
Why it does is read off the lists as they stand."""

from collections import Counter

from stretto.compiler.diagnostics.wording import count
from stretto.compiler.program.program import NONE, Compute, Free, Instruction, Program, Receive
from stretto.compiler.program.slots import most_live

OUT_OF_ORDER = "it uses messages in another order than they are sent"
KEPT = "messages wait there for a second unit that uses them"


def raised(program: Program, slots: int) -> str | None:
    """A sentence on the rank that needs the most receive slots, and how many others need more than
    `slots`; None where no rank does. The Program was made with the advice `slots`."""
    needs = [most_live(row).received for row in program.ranks]
    more = [rank for rank, most in enumerate(needs) if most > slots]
    if not more:
        return None
    worst = max(more, key=lambda rank: needs[rank])  # the first of equals
    others = len(more) - 1
    also = f" (and {count(others, 'more rank')} above {slots})" if others else ""
    why = _reason(program.ranks[worst], needs[worst])
    return f"rank {worst} needs {needs[worst]} receive slots{also}: {why}"


def _reason(row: tuple[Instruction, ...], most: int) -> str:
    """What asks for so many slots: what one unit uses, or that and what later units use again; if
    neither, messages were posted before their use, which is for those sent after them."""
    uses = _uses(row)
    at_once = Counter(unit for units in uses for unit in set(units))
    kept = Counter(k for units in uses for k in range(units[0], units[-1] + 1))
    if max(at_once.values()) == most:
        return f"{most} results are needed by one unit"
    return KEPT if max(kept.values()) == most else OUT_OF_ORDER


def _uses(row: tuple[Instruction, ...]) -> list[list[int]]:
    """For every message received the units that use it, counted from 0."""
    uses: list[list[int]] = []
    held: dict[int, list[int]] = {}
    number, unit = NONE, NONE
    for one in row:
        if type(one) is Receive:
            held[one.slot] = []
            uses.append(held[one.slot])
        elif type(one) is Free:
            held.pop(one.slot, None)
        elif type(one) is Compute:
            number += one.unit == NONE or one.unit != unit
            unit = one.unit
            for slot in one.reads:
                if slot in held:
                    held[slot].append(number)
    return uses
