"""What is wrong with one rank's list, told into the `Ledger`; and how much is told of it all."""

from collections import Counter
from collections.abc import Sequence

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Rejected
from stretto.compiler.proof.ledger import Ledger
from stretto.compiler.proof.messages import Location, Wording

MOST = 100  # findings of one kind that are told; the others are counted
FEW = 4  # findings of one kind on one rank that are told one by one


class RankFindings:
    """The findings of one rank: the first `FEW` of each kind one by one, the others counted."""

    def __init__(self, rank: int, ledger: Ledger, words: Wording):
        self.rank, self.ledger, self.words = rank, ledger, words
        self.told: dict[str, int] = {}

    def fault(self, code: str, i: int, message: str, *others: tuple[Location, str]) -> None:
        """The instruction at place i is wrong; `others` are the places that explain it."""
        told = self.told[code] = self.told.get(code, 0) + 1
        if told <= FEW:
            finding = self.words.finding(code, (self.rank, i), message, *others)
            self.ledger.findings.append(finding)

    def missing(self, code: str, message: str) -> None:
        """Something is wrong that no single instruction is to blame for."""
        self.ledger.findings.append(Diagnostic(code, message))

    def here(self, i: int, message: str) -> tuple[Location, str]:
        """Another place of this rank, as an explanation."""
        return (self.rank, i), message

    def close(self) -> None:
        """Say how many were not told."""
        for code, many in self.told.items():
            if many > FEW:
                self.missing(code, f"rank {self.rank}: {many - FEW} more findings of this kind")


def reject(findings: Sequence[Diagnostic]) -> None:
    """What was found, if anything, raised as `Rejected`: the first `MOST` of each kind, and how
    many more."""
    if not findings:
        return
    many = Counter(one.code for one in findings)
    told: Counter[str] = Counter()
    kept = []
    for one in findings:
        told[one.code] += 1
        if told[one.code] <= MOST:
            kept.append(one)
    for code, found in many.items():
        if found > MOST:
            kept.append(Diagnostic(code, f"{found - MOST} more findings of this kind"))
    raise Rejected(kept)
