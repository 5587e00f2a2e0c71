"""Ranks with a fault: which, when, on which rank, started how; and what came of it."""

import re
from typing import NamedTuple

WORLD = 3
TIMEOUT = 6  # seconds, of the ranks
DIES = ("kill", "segv", "abrt", "leave", "orphan", "term", "int", "hup")
STOPS = ("stop", "sleep", "spin")
RAISES = ("raise", "exit", "strange", "memory")
WRONG = ("shape", "nan")
FAULTS = (*DIES, *STOPS, *RAISES, *WRONG)
MOMENTS = (
    *("start", "import", "build", "data", "first", "forward", "loss", "backward", "weights"),
    *("optimizer", "checkpoint", "end"),
)
WORDS = ["small.plan", "--model", "mine.py:model", "--steps", "4", "--timeout", str(TIMEOUT)]
TOGETHER = ("local", "threads")  # launchers whose ranks are threads of one process


class Fault(NamedTuple):
    """What happens, when, on which rank, and who has started the ranks."""

    what: str
    when: str
    rank: int
    launcher: str

    def possible(self) -> bool:
        """A loss is computed on the last rank alone, a shape is wrong for the next rank, what ends
        a process ends all ranks that are its threads, a script's own beginning is torch's, and an
        interrupt while it ends is one that Python prints and forgets."""
        own = self.launcher in ("own", "script", "threads")
        return not (
            (self.when == "loss" and self.rank != WORLD - 1)
            or (self.what in WRONG and self.when not in ("first", "forward"))
            or (self.what == "shape" and self.rank == WORLD - 1)
            or (self.launcher in TOGETHER and self.when in ("start", "import", "end"))
            or (self.launcher in TOGETHER and self.what in (*DIES, "stop"))
            or (own and self.when in ("start", "import", "checkpoint"))
            or (self.when == "start" and self.what not in (*DIES, *STOPS))
            or (self.when == "end" and self.what not in DIES)
            or (self.when == "end" and self.what == "int" and own)
        )

    def environment(self) -> dict[str, str]:
        return {
            "FAULT": self.what,
            "MOMENT": self.when,
            "CULPRIT": str(self.rank),
            "PATIENCE": str(TIMEOUT),
        }

    def words(self) -> list[str]:
        """The arguments of the training."""
        kept = ["--checkpoint", "kept", "--checkpoint-every", "1"]
        return [*WORDS, *(kept if self.when == "checkpoint" else [])]


class Ending(NamedTuple):
    """`seconds` from the fault until all ranks had ended; `left`: processes that had not by the
    deadline, the stopped one not counted; `text`: all that was said; `files`: those of
    ours that are still there."""

    seconds: float
    left: int
    codes: list[int]
    text: str
    files: list[str]

    def named(self, fault: Fault) -> bool:
        """Whether what was said blames the rank of the fault, and no other."""
        return culprits(self.text) == {fault.rank}

    def sentences(self) -> int:
        """How many there are, if one is the last that is said. It may have several lines."""
        lines = self.text.rstrip().split("\n")
        first = [k for k, line in enumerate(lines) if line.startswith("error: ")]
        last = first and all(line.startswith("  ") for line in lines[first[-1] + 1 :])
        return len(first) if last else 0

    def told(self, fault: Fault) -> bool:
        """Whether it says what happened: the exception, or where the rank was."""
        return SAID.get(fault.what, "") in self.text


SAID = {
    "raise": "ValueError: too large",
    "strange": "StrangeError",
    "memory": "RuntimeError: ",
    "shape": "(2, 3)",
    "nan": "nan",
}
DEAD = re.compile(
    r"(?:rank |not answer: rank )(\d)(?:: its process (?:has|was|ended)| is stopped|: no answer|"
    r" did not come|, which keeps it)"
)
ABSENT = re.compile(r"is rank (\d) started\?|has lost rank (\d): Connection closed")
ASLEEP = re.compile(
    r"rank (\d) (?:computes|builds|loads|updates|makes|is between|writes|sends)[^;\n]*, for \d+ s"
)
RAISED = re.compile(
    r"^(?:.*Error: |error: )(?:.* stops: )?(?:rank (\d).* (?:fails(?: at [^:]*)?: |cannot |gives )|"
    r".* fails on rank (\d)|.* not written: rank (\d)|"
    r".*the first number that is .* (?:on|as) rank (\d))|^on rank (\d)$|"
    r"^\[rank(\d)\]: (?:ValueError|StrangeError|RuntimeError): (?!Connection closed|.*gloo)",
    re.MULTILINE,
)


def culprits(text: str) -> set[int]:
    """The ranks that the text says are to blame: first those that have ended or are stopped, or
    have raised something; where there are none those that do not go on."""
    dead = {int(rank) for rank in DEAD.findall(text)}
    dead |= {int(rank) for pair in ABSENT.findall(text) for rank in pair if rank}
    raised = {int(rank) for pair in RAISED.findall(text) for rank in pair if rank}
    return dead | raised or {int(rank) for rank in ASLEEP.findall(text)}
