"""Costs that a schedule itself states and a file of costs beside it leaves as they are: an
example's 60 beside a measured 18.4. In: the table of all statements. Out: a `SeldomMeant` that
names them."""

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from stretto.compiler.evaluation.costs.exact import ExactCosts
from stretto.compiler.evaluation.costs.statements import cost_table
from stretto.compiler.evaluation.costs.table import StageKey
from stretto.compiler.evaluation.costs.unstated import quoted, ran
from stretto.compiler.evaluation.expressions.ranges import LoopBudget
from stretto.compiler.evaluation.reports import Reports
from stretto.compiler.evaluation.settings import SeldomMeant, Settings
from stretto.compiler.language import syntax as s
from stretto.compiler.problem.spec import NONE, Unit


def own_costs(
    costs: ExactCosts, settings: Settings, written: Sequence[Sequence[Unit]], whole: bool
) -> Iterator[SeldomMeant]:
    """What runs and costs as much as the schedule says, and not the costs that are given with it;
    nothing where these are none. `written` and `whole` as in `unstated`."""
    beside = settings.costs.statements if settings.costs else ()
    given = [one for one in beside if not isinstance(one, s.Transfer)]
    last = next((one for one in reversed(given) if isinstance(one, s.Cost)), None)
    if last is None or len(given) == len(costs.declared.costs):
        return
    declared = replace(costs.declared, costs=costs.declared.costs[-len(given) :])
    only = cost_table(declared, costs.pipelines, LoopBudget(settings.max_ops), Reports())
    known = {*only.stages, *only.cells}
    own = [key for key in (*costs.table.stages, *costs.table.cells) if key not in known]
    if costs.declared.split and not costs.declared.parts:
        runs = ran(costs, written, whole)
        own = [key for key in own if key[:3] in runs]
    names = list(dict.fromkeys(_name(costs, key) for key in own))
    if not names:
        return
    cost = "costs" if len(names) == 1 else "cost"
    words = f"{quoted(names)} {cost} what the schedule itself says"
    yield SeldomMeant("own-cost", f"{words}, beside costs that were given with it", last.span)


def _name(costs: ExactCosts, key: StageKey) -> str:
    """`F`, or of a part `F.mlp`."""
    kind, p, stage, part = key
    return kind if part == NONE else f"{kind}.{costs.pipelines[p].chains[stage][part].name}"
