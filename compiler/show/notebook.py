"""Plan → what a notebook shows of it: the page of `--format html` in a frame of its own, so that
neither its style nor its script reaches the notebook; of a plan too large for that the drawing."""

from html import escape

from stretto.compiler.plan.plan import Plan
from stretto.compiler.program.program import Compute
from stretto.compiler.show import draw
from stretto.compiler.show.summary import figures, of_plan, step_of

MOST = 20_000  # operations of a page that a notebook keeps beside its text
TALL = 40  # pixels for a rank
AROUND = 420  # pixels for what stands around the chart


def embedded(plan: Plan) -> str:
    """HTML that can stand in another page."""
    name = step_of(plan)
    program = plan.programs[name]
    if sum(isinstance(one, Compute) for row in program.ranks for one in row) > MOST:
        return f"<p>{escape(figures(of_plan(plan)))}</p>{draw(plan, 'svg', name)}"
    page = escape(draw(plan, "html", name), quote=True)
    height = min(AROUND + TALL * program.spec.ranks, 900)
    style = f"width: 100%; height: {height}px; border: 0"
    return f'<iframe srcdoc="{page}" style="{style}" sandbox="allow-scripts"></iframe>'
