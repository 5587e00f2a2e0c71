"""What slack around messages is worth (`docs/instructions.md`, "Messages"): how late plans end when
durations vary, where receives are posted none, one, two or any number of units ahead and sends
are awaited as many units later; and how many slots a rank holds for it.

    python benchmarks/slack.py
    python benchmarks/slack.py --receive-slots

With the flag: how late plans end with any number of receive slots, and where 3, 2 or 1 are advised.
Every duration is drawn uniformly from the planned one ± the fraction above the column; figures are
means over the seeds, in per cent of the makespan that was planned without advice.
"""

import sys
from fractions import Fraction
from pathlib import Path
from random import Random

import msgspec

from stretto import schedules
from stretto.compiler.diagnostics.source import Source
from stretto.compiler.evaluation import evaluate
from stretto.compiler.evaluation.settings import Settings
from stretto.compiler.language.parse import parse, parse_costs
from stretto.compiler.order import Order
from stretto.compiler.order.arrange import arrange
from stretto.compiler.order.budget import Budget
from stretto.compiler.problem.expand import expand
from stretto.compiler.problem.spec import CostOverride, Costs
from stretto.compiler.program import messages
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate
from stretto.compiler.program.program import Compute, Program
from stretto.compiler.program.timeline import time

FOLDER = Path(next(iter(schedules.__path__)))
SCHEDULES = ("one_f_one_b", "gpipe", "zb_h1", "interleaved_1f1b", "dualpipe")
TRANSFERS = ("0", "1/10", "1/2")
ADVICE = (None, 3, 2, 1)  # receive slots per rank
SLACKS = ((0, 0), (1, 0), (0, 1), (1, 1), (2, 2), (1000, 1000))  # units before, after
JITTERS = (Fraction(1, 20), Fraction(1, 5), Fraction(1, 2))
SEEDS = range(10)
RANKS, MICROBATCHES = 8, 32


def main() -> None:
    """Prints the table that the command line asks for."""
    if "--receive-slots" in sys.argv[1:]:
        advised()
    else:
        slack()


def slack() -> None:
    """By units of slack before receives and after sends."""
    print("| schedule | transfer | ahead, after | receives | outputs | ±5 % | ±20 % | ±50 % |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in SCHEDULES:
        for transfer in TRANSFERS:
            for early, late in SLACKS:
                messages.EARLY, messages.LATE = early, late
                program = communicate(ordered(name, transfer))
                claimed = claims(program)
                makespans = [mean_makespan(program, jitter) for jitter in JITTERS]
                cells = [
                    name,
                    transfer,
                    "all" if early == 1000 else f"{early}, {late}",
                    str(max(claimed.receives)),
                    str(max(claimed.outputs)),
                    *(f"{100 * makespan / claimed.makespan - 100:+.1f}" for makespan in makespans),
                ]
                print("|", " | ".join(cells), "|", flush=True)


def advised() -> None:
    """By receive slots advised."""
    print("| schedule | transfer | advice | receives | outputs | planned | ±20 % |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in SCHEDULES:
        for transfer in TRANSFERS:
            order = ordered(name, transfer)
            least = claims(communicate(order)).makespan
            for slots in ADVICE:
                program = communicate(order, slots)
                claimed = claims(program)
                makespans = [claimed.makespan, mean_makespan(program, Fraction(1, 5))]
                cells = [
                    name,
                    transfer,
                    str(slots or "none"),
                    str(max(claimed.receives)),
                    str(max(claimed.outputs)),
                    *(f"{100 * makespan / least - 100:+.1f}" for makespan in makespans),
                ]
                print("|", " | ".join(cells), "|", flush=True)


def ordered(name: str, transfer: str) -> Order:
    """The schedule's order where every F, I and W takes 1000 ticks and a transfer that share of
    them."""
    source = Source(f"{name}.pipe", (FOLDER / f"{name}.pipe").read_text())
    costs = parse_costs(
        Source("costs", f"cost F = 1000 cost I = 1000 cost W = 1000 transfer 1000 * {transfer}")
    )
    settings = Settings({"ranks": RANKS, "microbatches": MICROBATCHES}, costs)
    return arrange(expand(evaluate(parse(source), settings)), Budget())


def mean_makespan(program: Program, jitter: Fraction) -> float:
    """In ticks, over the seeds."""
    return sum(time(disturbed(program, jitter, seed)).makespan for seed in SEEDS) / len(SEEDS)


def disturbed(program: Program, jitter: Fraction, seed: int) -> Program:
    """The same lists, each duration drawn uniformly from its own ± `jitter` of it. An overlapped
    pair takes the sum of its two."""
    random, costs = Random(seed), Costs(program.spec)
    operations = [one.operation for row in program.ranks for one in row if isinstance(one, Compute)]
    exceptions = tuple(
        CostOverride(o, round(costs.of(o) * (1 + jitter * (2 * random.random() - 1))))
        for o in operations
    )
    return msgspec.structs.replace(
        program, spec=msgspec.structs.replace(program.spec, exceptions=exceptions)
    )


if __name__ == "__main__":
    main()
