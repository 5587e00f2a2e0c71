"""Graphs that are cut by a plan made for an earlier one, and gradients that W adds without the
engine, against autograd's own backward: the same to the last bit, whatever changes from one
micro-batch to the next."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from stretto.runtime.stage import cut_nodes
from stretto.runtime.stage.cut_plans import CutPlans, numbered
from stretto.runtime.stage.hooks import hooks_made, none_at_parameters
from stretto.runtime.stage.split_backward import input_gradient, weight_gradient, whole
from tests.runtime.test_cut_nodes import NODES, equal, same
from tests.runtime.test_split_backward import Random_

N, ROWS = 6, 4
Plans = CutPlans | None


@pytest.fixture(params=["engine", "directly"])
def additions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Which way gradients are added in W: as where there may be hooks, or as where there are
    none."""
    monkeypatch.setattr(cut_nodes, "none_at_parameters", lambda: request.param == "directly")
    yield request.param


def step(
    module: nn.Module, batches: Sequence[tuple[Tensor, ...]], halves: bool, plans: Plans = None
) -> list[Tensor | None]:
    """The gradients of all inputs, and those that all micro-batches have left in parameters."""
    found: list[Tensor | None] = []
    for batch in batches:
        hooks, leaves = hooks_made(), [x.detach().requires_grad_() for x in batch if is_float(x)]
        made = module(*(leaves or batch))
        outputs = [one for one in (made if isinstance(made, list) else [made]) if one.requires_grad]
        above = tuple(torch.sin(output.detach() * 7) for output in outputs)
        if halves:
            given, deferred = input_gradient(outputs, above, leaves, hooks, plans)
            found += given
            del outputs, made
            weight_gradient(deferred)
        else:
            found += whole(outputs, above, leaves)
    found += [p.grad for p in module.parameters()]
    module.zero_grad(set_to_none=True)
    return found


def is_float(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


@pytest.mark.parametrize("name", NODES)
def test_alike_graphs_are_cut_by_one_plan(
    name: str, additions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    make, data = NODES[name]
    module, batches = make(), [(data(),) for _ in range(3)]
    for _ in range(2):  # of a frozen input too
        expected = step(module, batches, halves=False)
        plans = CutPlans()
        assert equal(step(module, batches, True, plans), expected)
        assert len(plans.known) == plans.useful
        with monkeypatch.context() as large:
            large.setattr(cut_nodes, "MANY", 1)
            assert equal(step(module, batches, True, plans), expected)
        if not is_float(batches[0][0]):
            break


def test_most_graphs_have_a_plan() -> None:
    without = []
    for name, (make, data) in NODES.items():
        plans = CutPlans()
        step(make(), [(data(),)], True, plans)
        if not plans.useful:
            without.append(name)
    # what saves several tensors by one name; what may have to be run in one piece
    assert without == ["written-into", "group-norm"]


class Changing(nn.Module):
    """Runs one of several functions of its parts, another in every micro-batch."""

    def __init__(self, *ways: Callable[[Any, Tensor], Tensor]):
        super().__init__()
        self.ways, self.at = ways, 0
        self.a, self.b = nn.Linear(N, N), nn.Linear(N, N)
        self.norm, self.vector = nn.LayerNorm(N), nn.Parameter(torch.randn(N))

    def forward(self, x: Tensor) -> Tensor:
        way = self.ways[self.at % len(self.ways)]
        self.at += 1
        return way(self, x)


def deep(depth: int) -> Callable[[Any, Tensor], Tensor]:
    def run(module: Any, x: Tensor) -> Tensor:
        for _ in range(depth):
            x = torch.tanh(module.a(x))
        made: Tensor = module.norm(x)
        return made

    return run


CHANGES: dict[str, tuple[Callable[[Any, Tensor], Tensor], ...]] = {
    "which-layer": (lambda m, x: m.a(x), lambda m, x: m.b(x)),
    "order": (lambda m, x: m.b(F.gelu(m.a(x))), lambda m, x: m.a(F.gelu(m.b(x)))),
    "used-twice": (lambda m, x: m.a(F.gelu(m.a(x))), lambda m, x: m.b(F.gelu(m.a(x)))),
    # a node gives W numbers of another type than the parameter's
    "wider": (lambda m, x: x.double() * m.vector, lambda m, x: x.double() * m.a.bias),
    # the same nodes and edges, of which another is the input
    "which-factor": (lambda m, x: x * m.vector, lambda m, x: m.vector * x),
    # the same kinds of nodes, with other edges
    "wiring": (
        lambda m, x: torch.tanh(m.a(x)) * m.b(x),
        lambda m, x: torch.tanh(m.a(x) * m.b(x)),
        lambda m, x: m.b(torch.tanh(m.a(x))) * x,
    ),
    "side": (
        lambda m, x: (x * m.vector) * torch.tanh(m.vector),
        lambda m, x: (x * torch.tanh(m.vector)) * m.vector,
        lambda m, x: torch.tanh(x * m.vector) * m.vector,
    ),
    "edges-alone": (
        lambda m, x: (x * m.vector) * (x * m.vector),
        lambda m, x: (x * x) * (m.vector * m.vector),
        lambda m, x: (x * m.vector) * (m.vector * m.vector),
    ),
    "which-output": (
        lambda m, x: x[:, :3] * m.vector.split(3)[0],
        lambda m, x: x[:, :3] * m.vector.split(3)[1],
    ),
    "outputs-of-a-node": (
        lambda m, x: sum((p * m.vector[: p.shape[1]]).sum() for p in x.split(2, 1)) * m.a(x),
        lambda m, x: sum((p * m.vector[: p.shape[1]]).sum() for p in x.split(3, 1)) * m.a(x),
    ),
    "no-cut": (lambda m, x: m.norm(x), lambda m, x: torch.tanh(x)),
    "detached": (lambda m, x: m.a(x) * m.norm(x), lambda m, x: m.a(x).detach() * m.norm(x)),
    "many": tuple(map(deep, range(1, 12))),
}


@pytest.mark.parametrize("name", CHANGES)
def test_graphs_that_change(name: str, additions: str) -> None:
    torch.manual_seed(0)
    module = Changing(*CHANGES[name])
    batches = [(torch.randn(ROWS, N),) for _ in range(3 * len(CHANGES[name]))]
    plans = CutPlans()
    expected = step(module, batches, False)
    module.at = 0
    assert equal(step(module, batches, True, plans), expected)


@pytest.mark.parametrize("seed", range(25))
def test_random_graphs_one_after_the_other(seed: int, additions: str) -> None:
    """Stages that have one set of plans between them, which no stage has: it must be seen which
    graph fits."""
    torch.manual_seed(seed)
    inputs, plans = 1 + seed % 3, CutPlans()
    modules = [Random_(10 * seed + k, inputs).double() for k in range(3)]
    batches = [tuple(torch.randn(3, 4).double() for _ in range(inputs)) for _ in range(2)]
    for _ in range(2):
        for module in modules:
            plans.useful = True
            found, expected = step(module, batches, True, plans), step(module, batches, False)
            assert all(a is b is None or close(a, b) for a, b in zip(found, expected, strict=True))


def close(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_inputs_that_change_places(additions: str) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(N, N), nn.Linear(N, N)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.a(x) * torch.tanh(self.b(y))

    torch.manual_seed(0)
    module, plans = Two(), CutPlans()
    x, y = torch.randn(ROWS, N), torch.randn(ROWS, N)
    above = torch.randn(ROWS, N)
    for order in ((0, 1), (1, 0), (0,), (1,)):
        found, weights = [], []
        for halves in (True, False):
            leaves = [one.clone().requires_grad_(k in order) for k, one in enumerate((x, y))]
            hooks, output = hooks_made(), module(*leaves)
            ends = [leaves[k] for k in order]
            if halves:
                given, deferred = input_gradient([output], (above,), ends, hooks, plans)
                weight_gradient(deferred)
            else:
                given = whole([output], (above,), ends)
            found.append(list(given))
            weights.append([p.grad for p in module.parameters()])
            module.zero_grad(set_to_none=True)
        assert equal(*found) and equal(*weights)


@pytest.mark.filterwarnings("ignore:torch.triangular_solve")
def test_a_start_at_another_output_of_the_first_operation_on_data(additions: str) -> None:
    """Where no input has a gradient, the trunk may end where it starts."""

    class Solves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.upper, self.at = nn.Parameter(torch.eye(N) + torch.ones(N, N).triu() / 9), 0

        def forward(self, x: Tensor) -> Any:
            self.at += 1
            return torch.triangular_solve(x.float(), self.upper)[self.at % 2]

    module, plans = Solves(), CutPlans()
    batches = [(torch.arange(N * ROWS).view(N, ROWS) + k,) for k in range(4)]
    expected = step(module, batches, False)
    assert equal(step(module, batches, True, plans), expected)
    assert len(plans.known) == 2


def test_saved_tensors_that_are_packed_now_and_then(additions: str) -> None:
    """A plan was made without hooks; then an offloading hook gives back what it has once."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(N, N), nn.GELU(), nn.LayerNorm(N))
    unpacked: list[Tensor] = []

    def around(packs: bool) -> AbstractContextManager[Any]:
        if not packs:
            return nullcontext()
        kept: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> int:
            kept[len(kept)] = tensor.clone()
            return len(kept) - 1

        def unpack(at: int) -> Tensor:
            unpacked.append(kept[at])
            return kept.pop(at)

        return torch.autograd.graph.saved_tensors_hooks(pack, unpack)

    x, above, plans = torch.randn(ROWS, N), torch.randn(ROWS, N), CutPlans()
    leaf = x.clone().requires_grad_()
    expected = [*whole([layers(leaf)], (above,), [leaf]), *(p.grad for p in layers.parameters())]
    layers.zero_grad(set_to_none=True)
    for packs in (False, True, False, True):
        hooks, leaf = hooks_made(), x.clone().requires_grad_()
        with around(packs):
            output = layers(leaf)
        unpacked.clear()
        given, deferred = input_gradient([output], (above,), [leaf], hooks, plans)
        weight_gradient(deferred)
        assert bool(unpacked) == packs
        assert equal([*given, *(p.grad for p in layers.parameters())], expected)
        layers.zero_grad(set_to_none=True)
    assert len(plans.known) == 1


def test_shapes_tell_apart_what_is_cut_otherwise() -> None:
    """Also where the nodes are the same, and where only the output of one differs."""
    x, w = torch.randn(4, N, requires_grad=True), torch.randn(N, requires_grad=True)

    def shape(made: Tensor) -> Any:
        return numbered([get_gradient_edge(made)])[1]

    assert shape(x * w) == shape(x * w)
    assert shape(x * torch.tanh(w)) != shape(torch.tanh(x) * w)
    a, b = x.split(2)
    assert shape(a) != shape(b)
    assert shape(torch.tanh(x)) != shape(torch.sin(x))
    assert shape((x * w) * (x * w)) != shape((x * x) * (w * w))
    assert shape(a * torch.tanh(b)) != shape(b * torch.tanh(a))
    inner = x * w
    starts = [get_gradient_edge(one) for one in (torch.tanh(inner), inner)]
    assert numbered(starts)[1] != numbered([starts[0], starts[0]])[1]


def test_hooks_of_a_parameters_own_node_run_in_w() -> None:
    """They can be put there long before, and W's additions pass them by unless it asks."""
    module, calls = nn.Linear(N, N), []
    node: Any = get_gradient_edge(module.weight).node
    node.register_hook(lambda *_: calls.append("after"))
    node.register_prehook(lambda *_: calls.append("before"))
    plans = CutPlans()
    for _ in range(2):
        step_once(module, plans)
    assert calls == ["before", "after"] * 2


def step_once(module: nn.Module, plans: Plans) -> None:
    hooks, leaf = hooks_made(), torch.randn(ROWS, N).requires_grad_()
    output = module(leaf)
    _, deferred = input_gradient([output], (torch.ones(ROWS, N),), [leaf], hooks, plans)
    weight_gradient(deferred)


def test_one_hook_anywhere_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RemovableHandle, "next_id", 1)
    assert none_at_parameters()
    nn.Linear(2, 2).register_forward_hook(lambda *_: None)
    assert not none_at_parameters()


STEPS = """
from stretto.runtime.stage import cut_nodes
from stretto.runtime.stage.hooks import hooks_made
from tests.support.training import batch, compiled, spec_of, trained

plan, found = compiled("zb_h1", ranks=2, microbatches=4), []
real = cut_nodes.added
cut_nodes.added = lambda *edge: found.append(real(*edge)) or found[-1]
trained(plan, *batch(spec_of(plan)), steps=2)
print(hooks_made(), sum(found), len(found))
"""


def test_a_process_in_which_nobody_makes_hooks() -> None:
    """W adds by itself all but a parameter's first gradient: nothing here makes a hook but the one
    that is counted on. Two layers have six parameters each; of the first one the norm, at which its
    I ends, is run by the engine."""
    done = subprocess.run(
        [sys.executable, "-c", STEPS], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    made, added, asked = map(int, done.stdout.split())
    assert made == 1
    assert asked - added == 6 + 4 < added


def test_the_first_gradient_is_its_own(additions: str) -> None:
    """It is no alias of what is sent to the stage before, nor of another parameter's."""

    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(N)), nn.Parameter(torch.randn(N))

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.a) + self.b

    module, plans = Sums(), CutPlans()
    batches = [(torch.randn(N),) for _ in range(3)]
    expected = step(module, batches, False)
    assert all(map(same, step(module, batches, True, plans), expected))
