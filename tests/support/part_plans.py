"""Plans of stages that are cut into parts, small ones."""

from stretto.compiler.bounds.bound import Bound
from stretto.compiler.order.written import written
from stretto.compiler.plan.plan import Plan, assemble
from stretto.compiler.problem.expand import expand
from stretto.compiler.program.claims import claims
from stretto.compiler.program.communicate import communicate, forwards
from stretto.compiler.program.program import Claims, Program, ProgramName
from stretto.compiler.program.whole import whole_order
from stretto.compiler.proof.prove import prove_all
from tests.support import evaluated

CHAIN = "split F into layers * (att, disp on comm, mlp, comb on comm)\n"
ONE_WAY = "pipeline main { stages ranks place s -> s }\n"
BOTH_WAYS = """pipeline down { stages ranks microbatches microbatches / 2 place s -> s }
pipeline up { replicates down microbatches microbatches / 2 place s -> ranks - 1 - s }
"""
ORDERS = {
    "one way": ONE_WAY
    + """order rank r {
      let ahead = min(microbatches, ranks - r)
      repeat ahead { F }
      repeat microbatches - ahead { F | B }
      repeat ahead { B }
    }""",
    "two at once": ONE_WAY
    + """order rank r {
      repeat microbatches / 2 { F | F }
      repeat microbatches { B }
    }""",
    "both ways": BOTH_WAYS
    + """order rank r {
      let near = if r == 0 then down else up
      let far = if r == 0 then up else down
      F near; F far
      repeat microbatches / 2 - 1 as k {
        if k == 0 { F near; B far } else { F near | B far }
        F far | B near
      }
      B far; I near; W
    }""",
    "there and back": """pipeline main {
      stages 2 * ranks
      place s -> min(s, 2 * ranks - 1 - s)
    }
    order rank r {
      let back = 2 * ranks - 1 - r
      repeat microbatches { F[r] }
      repeat microbatches { F[back] }
      repeat microbatches { B[back] }
      repeat microbatches { B[r] }
    }""",
}


def part_plan(
    order: str = "one way",
    split: bool = True,
    chain: str = CHAIN,
    whole: bool = False,
    **values: int,
) -> Plan:
    """The plan of one of `ORDERS`, by default of 2 ranks and 4 micro-batches; with `whole` stages
    run whole."""
    head = "schedule in_parts ranks 2 microbatches 4 param layers = 1\n"
    text = head + ORDERS[order].replace("order rank", chain + "order rank", 1)
    if split:
        text = text.replace(chain, chain + "split B into I, W\n")
    problem = expand(evaluated.spec(text, "", **values))
    made = whole_order(written(problem)) if whole else written(problem)
    programs: dict[ProgramName, Program] = {"train": communicate(made), "eval": forwards(made)}
    claimed: dict[ProgramName, Claims] = {name: claims(one) for name, one in programs.items()}
    prove_all(programs, claimed)
    return assemble(programs, claimed, Bound(0, "none"), "written")
