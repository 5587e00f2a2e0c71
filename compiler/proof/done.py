"""What was done on one rank, followed through its list: each operation comes once, and after what
it needs there."""

from stretto.compiler.problem.spec import Operation
from stretto.compiler.proof.findings import RankFindings
from stretto.compiler.proof.kinds import KINDS, ends
from stretto.compiler.proof.ledger import Ledger
from stretto.compiler.proof.obligations import Obligation, Obligations


class DoneOperations:
    """The rank's entries in the ledger's table of what was done. `left`: for every stage of the
    rank the weight gradients that are still to come. `alike`: by what they leave, the bits of kinds
    that may stand for each other in another slice, as I and B."""

    def __init__(self, obligations: Obligations, rank: int, ledger: Ledger, findings: RankFindings):
        self.obligations, self.done, self.findings = obligations, ledger.done, findings
        self.left: dict[tuple[int, int], int] = {
            (p, s): obligations.spec.pipelines[p].microbatches * obligations.width
            for p, s in obligations.trained.get(rank, ())
        }
        self.alike = {
            leaves: sum(kind.bit for kind in KINDS.values() if kind.leaves == leaves)
            for leaves in ("activation", "gradient", None)
        }

    def mark(
        self,
        i: int,
        operation: Operation,
        obligation: Obligation,
        entry: int,
        beside: Operation | None,
    ) -> bool:
        """Note in its `entry` that the operation was done. Complains if it was before (then the
        result is False), or if something on this rank should have been done first: its forward, its
        input gradient, the slice before it, what a rule names. `beside` is the first half of the
        overlapped unit that it is in, if it is the second."""
        done, kind, width = self.done, obligation.kind, self.obligations.width
        state = done[entry]
        if state & kind.bars:
            message = "this was done before, or is part of what was"
            self.findings.fault("repeated-operation", i, message)
            return False
        if state & kind.after != kind.after:
            first = next(k.name for k in KINDS.values() if k.bit & kind.after & ~state)
            self.findings.fault("too-early", i, f"its {first} has not been computed yet")
        if width > 1 and kind.slices:
            before = operation.slice - kind.slices
            if 0 <= before < width and not done[entry - kind.slices] & self.alike[kind.leaves]:
                self.findings.fault("too-early", i, f"slice {before} comes first")
        done[entry] = state | kind.bit
        if kind.sums:
            self.left[obligation.place] -= 1
        if self.obligations.before:
            self.follow_rules(i, operation, beside)
        return True

    def follow_rules(self, i: int, operation: Operation, beside: Operation | None) -> None:
        """What a rule puts before the operation on this rank must have been done, and not as the
        other half of the same overlapped unit, which ends no earlier than this begins."""
        for earlier in self.obligations.before.get(operation, ()):
            bits = sum(KINDS[one.kind].bit for one in ends(earlier))
            if not self.done[self.obligations.entry(earlier)] & bits or beside == earlier:
                what = self.findings.words.operation(earlier)
                self.findings.fault("too-early", i, f"a rule puts it after {what}")
