"""`stretto compile FILE -o PLAN`: write the plan, print the summary."""

from argparse import Namespace

import msgspec

from stretto.compiler.commands import files
from stretto.compiler.commands.load import load
from stretto.compiler.diagnostics.printable import printable
from stretto.compiler.plan.plan import write_plan
from stretto.compiler.show.summary import of_plan, step_of, table


def run(chosen: Namespace) -> int:
    if files.is_plan(chosen.file):
        raise files.Unusable(f"`{chosen.file}` is a plan already; `check` and `show` read it")
    plan = load(chosen.file, chosen, forward_only=chosen.forward_only)
    if chosen.output:
        with files.guarded(chosen.output):
            write_plan(plan, chosen.output)
    if chosen.certificate:
        from stretto.compiler.certificate.write import certificate, unproven

        name = step_of(plan)
        text = certificate(plan.programs[name], plan.claims[name], plan.bound)
        files.write(chosen.certificate, text)
        if weaker := unproven(text):
            files.say(f"{chosen.certificate}: {weaker}")
    summary = of_plan(plan)
    print(msgspec.json.encode(summary).decode() if chosen.json else printable(table(summary)))
    for written in filter(None, (chosen.output, chosen.certificate)):
        files.say(f"wrote {written}")
    return 0
