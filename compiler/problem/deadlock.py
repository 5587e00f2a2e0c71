"""Problem with a circle → the diagnostic that explains it: who waits where, and the shortest circle
of operations, each with what it waits for."""

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from stretto.compiler.diagnostics.diagnostic import Diagnostic, Label
from stretto.compiler.diagnostics.source import Span
from stretto.compiler.diagnostics.wording import columns, listed
from stretto.compiler.problem.kinds import KINDS
from stretto.compiler.problem.problem import EdgeKind, Problem
from stretto.compiler.problem.spec import Operation, Rule, show

if TYPE_CHECKING:
    import networkx as nx

HELPS = 3  # a longer circle has more places to mend it than anybody wants to read


class Blocked(NamedTuple):
    """The operation `waiting` cannot run before `needed`, for the reason `why`."""

    waiting: int
    why: EdgeKind
    needed: int


def explain(problem: Problem) -> Diagnostic:
    """The diagnostic `deadlock` of a Problem whose edges have a circle.

    Every rank with an order stops at the first unit that cannot run. That unit needs something
    that has not run either: it stands further down on a rank, whose first unit again needs
    something, and so on round. Operations without an order each wait for themselves.
    """
    stuck = _Stuck(problem)
    words = _Sentences(stuck, stuck.circle())
    return Diagnostic(
        code="deadlock",
        message=words.message(),
        labels=words.labels(),
        notes=(words.drawn(), *words.behind()),
        help=words.help(),
    )


class _Stuck:
    """Everything that cannot run: `blocked[i]`; `first[r, s]`, the first unit of the order of rank
    r that cannot on its stream s; `ordered`, the operations that stand in an order."""

    def __init__(self, problem: Problem):
        self.problem, self.spec = problem, problem.spec
        self.blocked = [True] * len(problem.operations)
        for i in problem.topological():
            self.blocked[i] = False
        index = {operation: i for i, operation in enumerate(problem.operations)}
        self.ordered: set[int] = set()
        self.first: dict[tuple[int, int], tuple[int, ...]] = {}
        for rank, units in enumerate(self.spec.written):
            for unit in units:
                numbers = tuple(index[operation] for operation in unit.operations)
                self.ordered.update(numbers)
                lane = (rank, problem.stream[numbers[0]])
                if lane not in self.first and self.blocked[numbers[0]]:
                    self.first[lane] = numbers
        self.needs: dict[int, list[tuple[int, EdgeKind]]] = {}
        for a, b, why in zip(problem.tail, problem.head, problem.why, strict=True):
            if self.blocked[a] and why is not EdgeKind.ORDER and why is not EdgeKind.PAIR:
                self.needs.setdefault(b, []).append((a, why))

    def place(self, i: int) -> tuple[int, ...]:
        """The unit at which i is held up: the first of its rank and stream, or itself."""
        lane = (self.problem.rank[i], self.problem.stream[i])
        return self.first[lane] if i in self.ordered else (i,)

    def circle(self) -> list[Blocked]:
        """A shortest circle of waits, from the lowest rank on; each is for something that is held
        up at the next."""
        import networkx as nx

        graph: nx.DiGraph[tuple[int, ...]] = nx.DiGraph()
        places = list(self.first.values())
        places += [(i,) for i, stuck in enumerate(self.blocked) if stuck and i not in self.ordered]
        for place in places:
            for i in place:
                for j, why in self.needs.get(i, ()):
                    target = self.place(j)
                    if not graph.has_edge(place, target):
                        graph.add_edge(place, target, wait=Blocked(i, why, j))
        rings = [c for c in nx.strongly_connected_components(graph) if _turns(graph, c)]
        smallest = min(rings, key=lambda c: (len(c), min(c)))
        path = _shortest(graph.subgraph(smallest))
        return [graph.edges[a, b]["wait"] for a, b in zip(path, path[1:] + path[:1], strict=True)]


def _turns(graph: "nx.DiGraph[tuple[int, ...]]", component: set[tuple[int, ...]]) -> bool:
    """Whether there is a circle in the component: one alone may be without."""
    return len(component) > 1 or any(graph.has_edge(place, place) for place in component)


def _shortest(graph: "nx.DiGraph[tuple[int, ...]]", tries: int = 100) -> list[tuple[int, ...]]:
    """A shortest circle, by breadth-first search from the first places of the graph."""
    best: list[tuple[int, ...]] = []
    for start in sorted(graph)[:tries]:
        came: dict[tuple[int, ...], tuple[int, ...]] = {}
        queue = deque([start])
        while queue and start not in came:
            place = queue.popleft()
            for target in graph[place]:
                if target not in came:
                    came[target] = place
                    queue.append(target)
        path = [start]
        while came[path[-1]] != start:
            path.append(came[path[-1]])
        if not best or len(path) < len(best):
            best = [start, *path[:0:-1]]
    return best


# ---------------------------------------------------------------------------- words


class _Sentences:
    """The sentences about one circle. Each of its waits is for something that is held up at the
    next: `holders[k]` is what waits there."""

    def __init__(self, stuck: _Stuck, circle: list[Blocked]):
        self.stuck, self.spec, self.circle = stuck, stuck.spec, circle
        self.rank = stuck.problem.rank
        self.holders = [wait.waiting for wait in circle[1:] + circle[:1]]
        self.ranks = sorted({self.rank[w.waiting] for w in circle if w.waiting in stuck.ordered})

    def name(self, i: int) -> str:
        return show(self.spec, self.stuck.problem.operations[i])

    def span(self, i: int) -> Span:
        return self.spec.spans[self.stuck.problem.at[i]]

    def who(self, i: int) -> str:
        """The rank that runs i; with the stream, where there are several."""
        stream = self.stuck.problem.stream[i]
        of = f"`{self.spec.streams[stream]}` of " if self.spec.streams else ""
        return f"{of}rank {self.rank[i]}"

    def pairs(self, i: int, j: int) -> bool:
        """Whether the two are one overlapped unit."""
        return self.stuck.problem.overlaps_with[i] == j

    def message(self) -> str:
        if not self.help():
            cause = "rules" if any(w.why is EdgeKind.RULE for w in self.circle) else "feeds"
            name = self.name(self.circle[0].waiting)
            return f"these {cause} can never be met: `{name}` would have to run after itself"
        if len(self.ranks) == 1:
            return f"this order can never finish: rank {self.ranks[0]} waits for itself"
        return f"this order can never finish: {listed('rank', self.ranks)} wait for each other"

    def labels(self) -> tuple[Label, ...]:
        """Where each rank of the circle waits, then the rules that take part."""
        found = []
        for wait in self.circle:
            i = wait.waiting
            if i in self.stuck.ordered:
                words = f"{self.who(i)} waits here, at `{self.name(i)}`"
                found.append(Label(self.span(i), words))
        for wait in self.circle:
            if wait.why is EdgeKind.RULE:
                words = f"`{self.name(wait.waiting)}` after `{self.name(wait.needed)}`"
                found.append(Label(self.spec.spans[self.rule(wait).at], words))
        return tuple(found) or (Label(self.span(self.circle[0].waiting)),)

    def rule(self, wait: Blocked) -> Rule:
        """The rule that the wait comes from; its `B` may mean an I or W."""
        later, earlier = (self.stuck.problem.operations[i] for i in (wait.waiting, wait.needed))
        return next(
            r for r in self.spec.rules if _means(r.later, later) and _means(r.earlier, earlier)
        )

    def drawn(self) -> str:
        """The circle, a line for each wait and for each place in an order."""
        rows = []
        for wait, holder in zip(self.circle, self.holders, strict=True):
            both = (self.stuck.problem.operations[i] for i in (wait.waiting, wait.needed))
            words = _needs(wait.why, *both)
            rows.append((self.name(wait.waiting), words, self.name(wait.needed), ""))
            if wait.needed != holder:
                words = "overlaps" if self.pairs(wait.needed, holder) else "is ordered after"
                where = f"{self.who(holder)}, line {self.span(wait.needed).line}"
                rows.append((self.name(wait.needed), words, self.name(holder), where))
        return "circle: " + ("\n" + " " * 8).join(columns(rows))

    def behind(self) -> tuple[str, ...]:
        """The other ranks that cannot finish."""
        held_up = dict.fromkeys(rank for rank, _ in self.stuck.first)
        ranks = [rank for rank in held_up if rank not in self.ranks]
        if not ranks:
            return ()
        verb = "wait" if len(ranks) > 1 else "waits"
        return (f"{listed('rank', ranks)} {verb} behind them",)

    def help(self) -> str | None:
        """How to open the circle: only at places that the author chose."""
        ways = []
        for wait, holder in zip(self.circle, self.holders, strict=True):
            needed, at = self.name(wait.needed), self.name(holder)
            if self.pairs(wait.needed, holder):
                ways.append(f"`{needed}` and `{at}` one by one on rank {self.rank[holder]}")
            elif wait.needed != holder:
                ways.append(f"`{needed}` before `{at}` on rank {self.rank[holder]}")
        return "run " + ",\nor ".join(ways[:HELPS]) if ways else None


def _needs(why: EdgeKind, waiting: Operation, needed: Operation) -> str:
    """The words between an operation and what it needs."""
    match why:
        case EdgeKind.ACTIVATION:
            return "needs the activation of"
        case EdgeKind.GRADIENT:
            return "needs the gradient of"
        case EdgeKind.LOCAL if waiting.kind == needed.kind:
            return "is the part behind"
        case EdgeKind.LOCAL:
            return (
                "is the backward of"
                if KINDS[waiting.kind].leaves == "gradient"
                else "needs its own"
            )
        case EdgeKind.SLICE:
            return "needs the slice next to it,"
        case EdgeKind.RULE:
            return "by a rule runs after"
        case EdgeKind.ORDER | EdgeKind.PAIR:
            return "is ordered after"


def _means(written: Operation, operation: Operation) -> bool:
    """Whether the operation of a rule is this one."""
    stands_for = (written.kind, *KINDS[written.kind].halves)
    return operation.kind in stands_for and written[1:] == operation[1:]
