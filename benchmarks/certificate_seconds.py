"""How long a certificate takes to write, against what the search leaves for it (`seconds_for`).

    python benchmarks/certificate_seconds.py      (about a minute)

Seconds of one core, of `v_half` from 2 to 16 ranks and 16 to 512 micro-batches: nothing is searched
(`--effort 0`), since orders do not matter to the evidence.
"""

from fractions import Fraction
from time import process_time

from stretto.compiler import library
from stretto.compiler.certificate.write import certificate, seconds_for
from stretto.compiler.driver import compile_text
from stretto.compiler.evaluation import Settings
from stretto.compiler.order.budget import Budget
from stretto.compiler.problem.expand import expand

SIZES = ((4, 16), (4, 64), (8, 64), (16, 64), (2, 512), (8, 128), (4, 256), (8, 256), (16, 256))


def main() -> None:
    """Print a row for each size."""
    source = library.read("v_half")
    print("ranks  micro-batches  operations  seconds  left for it")
    for ranks, many in SIZES:
        values = {"ranks": Fraction(ranks), "microbatches": Fraction(many)}
        plan = compile_text(source.text, source.name, Settings(values), Budget(effort=0))
        program = plan.programs["train"]
        begun = process_time()
        certificate(program, plan.claims["train"], plan.bound, plan.hash)
        taken = process_time() - begun
        problem = expand(program.spec)
        operations, left = len(problem.operations), seconds_for(problem)
        print(f"{ranks:5} {many:14} {operations:11} {taken:8.2f} {left:12.2f}", flush=True)


if __name__ == "__main__":
    main()
