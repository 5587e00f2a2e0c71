"""What can be seen while one process takes a step for `verify`, and afterwards: which stages draw
random numbers, which give another output when they run again, and what a loss of the whole batch
would have been. In come the calls of the modules, out come sentences: causes of a difference, and
notes on what is equal and still not what one may expect."""

import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from stretto.runtime.batch import mapped, merged, tensors
from stretto.runtime.microbatches import PipelineMicrobatches
from stretto.runtime.topology import StageGraph, StageId

IGNORED = -100  # the target that torch's losses leave out


class Observed:
    """What was seen of the step in one process, by stage and pipeline. Of a step that is `sliced`
    less can be said: its stages keep what they have seen, and losses are of slices."""

    def __init__(self, graph: StageGraph, modules: Mapping[StageId, nn.Module], sliced: bool):
        self.graph, self.modules, self.sliced = graph, modules, sliced
        self.random: dict[StageId, None] = {}  # in the order in which they were found
        self.random_loss = False
        self.first: dict[StageId, tuple[tuple[Any, ...], dict[str, Any], Any]] = {}
        self.judged: dict[int, dict[int, tuple[Any, float]]] = {}

    def forward(
        self, stage: StageId, args: tuple[Any, ...], kwargs: dict[str, Any], call: Callable[[], Any]
    ) -> Any:
        """The stage's output for a micro-batch, which `call` computes from what it is given."""
        kept = None if stage in self.first else mapped(_kept, (args, kwargs))
        before = _random_state()
        output = call()
        if not _same(before, _random_state()):
            self.random[stage] = None
        if kept is not None:
            self.first[stage] = (*kept, mapped(_kept, output))
        return output

    def loss(
        self, pipeline: int, microbatch: int, output: Any, call: Callable[[], Tensor]
    ) -> Tensor:
        """The loss of a micro-batch."""
        before = _random_state()
        found = call()
        self.random_loss |= not _same(before, _random_state())
        value = found.detach().double().item()
        kept = mapped(lambda tensor: tensor.detach().cpu(), output)
        self.judged.setdefault(pipeline, {})[microbatch] = kept, value
        return found

    def causes(self) -> Iterator[str]:
        """Why the step may have come out otherwise on the ranks."""
        for stage in self.random:
            drawing = ", ".join(_drawing(self.modules[stage]))
            because = f": {drawing} in training mode" if drawing else ""
            yield (
                f"`{self.graph.label(stage)}` draws random numbers{because}. They are others in "
                "one process; verify without them, with probability 0 or in evaluation mode"
            )
        if self.random_loss:
            yield "the loss function draws random numbers, which are others in one process"
        for stage, (args, kwargs, output) in () if self.sliced else self.first.items():
            if stage not in self.random and not self._again(stage, args, kwargs, output):
                yield (
                    f"`{self.graph.label(stage)}` gives another output when it runs again on the "
                    "same input: it has a state of its own, or a random generator"
                )

    def _again(self, stage: StageId, args: Any, kwargs: Any, output: Any) -> bool:
        """Whether the module, run once more, gives the same; also where it cannot be."""
        try:
            with torch.no_grad():
                found = self.modules[stage](*mapped(_kept, args), **mapped(_kept, kwargs))
        except Exception:
            return True
        pairs = zip(tensors(found), tensors(output), strict=False)
        return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)

    def notes(
        self,
        microbatches: Mapping[int, PipelineMicrobatches],
        losses: Mapping[int, Any],
        several: bool = False,
    ) -> Iterator[str]:
        """What is as in one process that takes the same micro-batches, and not as in one that takes
        the whole batch at once. `several`: losses are divided by a total that the user gave, over
        several steps or replicas, of which this batch is a part."""
        for stage, module in self.modules.items():
            if self.graph.original(stage.pipeline) == stage.pipeline:
                for name, part in module.named_modules():
                    if isinstance(part, _BatchNorm) and part.training:
                        yield (
                            f"`{name}` of `{self.graph.label(stage)}` is a "
                            f"{type(part).__name__} in training mode: it normalizes each "
                            "micro-batch by itself, not the batch"
                        )
        models = {self.graph.original(p): None for p in self.judged}
        for model in () if self.sliced else models:
            note = self._of_parts(model, microbatches, losses[model], several)
            if note is not None:
                yield note

    def _of_parts(
        self,
        model: int,
        microbatches: Mapping[int, PipelineMicrobatches],
        loss: Any,
        several: bool,
    ) -> str | None:
        """Whether the loss of the whole batch is what its parts add up to; where that can be
        computed."""
        outputs, targets, total, own_weight = [], [], 0.0, 0.0
        for p in self.graph.topology.copies(model):
            own = microbatches[p]
            for m, (output, value) in sorted(self.judged.get(p, {}).items()):
                share = own.judging[m].share
                outputs.append(output)
                targets.append(mapped(lambda tensor: tensor.detach().cpu(), own.target[m]))
                own_weight += share.weight
                divisor = 1.0 if several else share.total
                total += value * share.weight / divisor if share.weight else 0.0
        if several and own_weight:
            total /= own_weight
        whole = _whole_loss(loss, outputs, targets)
        kind = next((t.dtype for o in outputs for t in tensors(o)), torch.float32)
        near = 0.02 if kind in (torch.bfloat16, torch.float16) else 1e-4
        if whole is None or math.isclose(whole, total, rel_tol=near, abs_tol=near * 1e-2):
            return None
        counts = [sum(int((t != IGNORED).sum()) for t in tensors(one)) for one in targets]
        words = (
            f"the loss of the whole batch is {whole:.6g}, and what its micro-batches add up to "
            f"{total:.6g}: the loss is no mean over equal parts"
        )
        if len(set(counts)) > 1:
            some = ", ".join(map(str, counts[:8])) + (", …" if len(counts) > 8 else "")
            words += f" (their targets have {some} entries that count)"
        return words + ". Give weights, by tokens for instance: `weight(target)`, or scale_loss="


def _whole_loss(loss: Any, outputs: list[Any], targets: list[Any]) -> float | None:
    """The loss function on all micro-batches at once; None where it cannot be called so."""
    try:
        with torch.no_grad():
            found = loss(merged(outputs), merged(targets))
        found = found[0] if isinstance(found, tuple) else found
        return float(found)
    except Exception:
        return None


def _drawing(module: nn.Module) -> Iterator[str]:
    """The parts of a module that are known to draw random numbers."""
    for name, part in module.named_modules():
        p = part.p if isinstance(part, _DropoutNd) else getattr(part, "dropout", 0)
        if part.training and isinstance(p, int | float) and p > 0:
            yield f"`{name}` ({type(part).__name__}, {p:g})" if name else type(part).__name__


def _random_state() -> list[Any]:
    """Of torch's generators, Python's, and NumPy's where it is loaded."""
    state: list[Any] = [torch.random.get_rng_state(), random.getstate()]
    if torch.cuda.is_available():
        state.append(torch.cuda.get_rng_state())
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        state.append(numpy.random.get_state()[1].tobytes())
    return state


def _same(a: list[Any], b: list[Any]) -> bool:
    return all(
        torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in zip(a, b, strict=False)
    )


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()
