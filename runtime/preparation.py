"""What happens before a step's list runs. In comes what the user gave the step on this rank; out
comes the interpreter of the step, once all ranks have agreed to take it."""

from collections.abc import Callable
from typing import NamedTuple

from stretto.compiler.program.program import ProgramName
from stretto.runtime.activity import Activity
from stretto.runtime.agreement import StepAgreement
from stretto.runtime.alike import switches
from stretto.runtime.coordination.peers import Peers
from stretto.runtime.edges import EdgeMemory
from stretto.runtime.errors import PipelineError, StepRefused, spelled
from stretto.runtime.header import HeaderCheck
from stretto.runtime.interpreter import StepInput
from stretto.runtime.mailbox import Mailbox
from stretto.runtime.microbatches import PipelineMicrobatches
from stretto.runtime.rank_context import RankContext
from stretto.runtime.recut import StepMicrobatches
from stretto.runtime.signatures import ModuleState, StepCard, faulty_card, state_of, step_card


class StepPreparation(NamedTuple):
    """What a rank keeps for that between steps. `check_messages`: see `ExecutorOptions`; `cards`
    are the last, by program."""

    context: RankContext
    activity: Activity
    agreement: StepAgreement
    edges: EdgeMemory
    state: ModuleState
    check_messages: bool
    cards: dict[ProgramName, StepCard]

    def begin(
        self,
        name: ProgramName,
        cut: Callable[[], StepMicrobatches],
        keep_outputs: bool,
    ) -> StepInput:
        """All ranks' agreement on the step, and what it runs on. `cut` gives this rank's
        micro-batches; what it raises, the other ranks are told. Raises `StepRefused` where one of
        them cannot begin: then all may try another step."""
        number, cause = self.activity.steps, None
        own: dict[int, PipelineMicrobatches] = {}
        try:
            own, again = cut()
            whole, state = not self.agreement.compared, self.state.checksum()
            alike = switches(self.context.plan.graph, self.context.stages)
            last = self.cards.get(name)
            if again and last and not whole and last.state == state and last.switches == alike:
                card = last if not last.contents else last._replace(contents={})
            else:
                card = step_card(name, own, state, alike, whole)
            self.cards[name] = card
        except Exception as error:
            known = isinstance(error, PipelineError)
            card = faulty_card(name, str(error) if known else spelled(error))
            cause = error.__cause__ if known else error
        try:
            signatures, complete = self.agreement.agree(number, card)
        except StepRefused as refused:
            raise refused from cause
        if complete:
            self.edges.forget_posts()
        edges = self.edges.step(name, signatures)
        header = None
        if self.check_messages:
            plan, device = self.context.plan, self.context.transport.device
            header = HeaderCheck(plan.spec, number, device)
        return StepInput(own, edges, Mailbox(self.context, edges, header), keep_outputs)


def preparation(
    context: RankContext, activity: Activity, peers: Peers, check_messages: bool
) -> StepPreparation:
    """Of a rank that has taken no step yet."""
    graph = context.plan.graph
    return StepPreparation(
        context,
        activity,
        StepAgreement(peers, graph, activity.awaits),
        EdgeMemory(peers.store, graph),
        state_of(context.stages.values()),
        check_messages,
        {},
    )
