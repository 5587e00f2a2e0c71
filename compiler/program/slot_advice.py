"""Program → the word about its receive slots, where an order needs more of them than was advised.
Why it does is read off the lists as they stand."""

from collections import Counter

from stretto.compiler.diagnostics.wording import count
from stretto.compiler.program.program import NONE, Compute, Free, Instruction, Program, Receive
from stretto.compiler.program.slots import most_live

OUT_OF_ORDER = "it uses messages in another order than they are sent"
KEPT = "messages wait there for a second unit that uses them"


def raised(program: Program, slots: int) -> str | None:
    """A sentence on the rank, or the stream of a rank, that needs the most receive slots, and how
    many others need more than `slots`; None where none does. The Program was made with the advice
    `slots`."""
    rows = _rows(program)
    needs = {name: most_live(row).received for name, row in rows.items()}
    more = [name for name, most in needs.items() if most > slots]
    if not more:
        return None
    worst = max(more, key=needs.__getitem__)  # the first of equals
    others = len(more) - 1
    one = "more stream" if program.spec.streams else "more rank"
    also = f" (and {count(others, one)} above {slots})" if others else ""
    why = _reason(rows[worst], needs[worst])
    return f"{worst} needs {needs[worst]} receive slots{also}: {why}"


def _rows(program: Program) -> dict[str, tuple[Instruction, ...]]:
    """What the advice is given to, by name: every rank, or every stream of each."""
    if not program.spec.streams:
        return {f"rank {rank}": row for rank, row in enumerate(program.ranks)}
    return {
        f"`{name}` of rank {rank}": tuple(
            [one for one, stream in zip(row, program.streams[rank], strict=True) if stream == k]
        )
        for rank, row in enumerate(program.ranks)
        for k, name in enumerate(program.spec.streams)
    }


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
