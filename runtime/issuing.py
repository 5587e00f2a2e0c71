"""Ways to run a rank's list. In comes the state of a step that is about to begin; when it returns,
every instruction has run: without streams one by one, on the CPU every stream on a thread of its
own, on a GPU all from one thread, each on its device stream."""

from copy import copy
from functools import partial

from stretto.runtime.collectives import as_stream_group
from stretto.runtime.interpreter import Interpreter
from stretto.runtime.streams.device import DeviceStreams
from stretto.runtime.streams.host import HostStreams
from stretto.runtime.whereabouts import AT


def run_list(run: Interpreter) -> None:
    """Runs the list: without streams from top to bottom, else each stream its part of it. Raises
    what the modules, the loss and the transport raise."""
    run.data_parallel.prepare(run.train)
    if run.marks is not None:
        run.marks.begin(run.program)
    if run.host is not None:
        side_by_side(run, run.host)
    elif run.device is not None:
        issued(run, run.device)
    else:
        one_by_one(run)
    page = run.context.page.numbers
    for kept in run.step.mailbox.unsent:
        run.at = page[AT] = kept.at
        kept.finish()
    run.step.mailbox.transport.flush()
    for made in run.returned:
        made.check(run)
    run.at = len(run.program.instructions)
    run.step.edges.complete()
    run.data_parallel.finish(run.train)


def one_by_one(run: Interpreter) -> None:
    """Without streams: from top to bottom."""
    before, behind = run.data_parallel.actions(run.program)
    page, place, marks = run.context.page.numbers, AT, run.marks
    with as_stream_group(run.context.group_of(0)):
        if marks is None and not before and not behind:
            for at, act in enumerate(run.bound.issue):
                run.at = page[place] = at
                act(run)
            return
        for at, act in enumerate(run.bound.issue):
            run.at = page[place] = at
            for other in before.get(at, ()):
                other()
            act(run)
            for other in behind.get(at, ()):
                other()
            if marks is not None:
                marks.issued(at)


def side_by_side(run: Interpreter, host: HostStreams) -> None:
    """Every stream on a thread of its own."""
    end, views = len(run.program.instructions), []
    for stream, own in enumerate(run.program.streams):
        view = copy(run)
        view.stream, view.at = stream, own[0] if own else end
        views.append(view)

    def body(view: Interpreter) -> None:
        with as_stream_group(run.context.group_of(view.stream)):
            for at in run.program.streams[view.stream]:
                host.look()
                view.do(at)
        view.at = end

    run.views = views
    host.run([partial(body, view) for view in views])
    run.views = [run]
    _at_the_end(run)


def issued(run: Interpreter, device: DeviceStreams) -> None:
    """Every stream on a device stream of its own, from this thread."""
    stream_of = {at: k for k, own in enumerate(run.program.streams) for at in own}
    with device.step(run.program.awaited):
        for at in range(len(run.program.instructions)):
            stream = stream_of[at]
            with device.on(stream), as_stream_group(run.context.group_of(stream)):
                run.do(at)
                if run.marks is not None:
                    run.marks.issued(at, stream)
    _at_the_end(run)


def _at_the_end(run: Interpreter) -> None:
    """What is to be done behind instructions that compute gradients: behind all, since other
    streams may add to them."""
    for acts in run.data_parallel.actions(run.program).behind.values():
        for act in acts:
            act()
