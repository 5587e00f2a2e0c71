"""What W computes beside the nodes' own formulas: with hooks, on other streams, in several threads,
and walking nothing twice; and that what was changed or freed in between is an error, never a wrong
number."""

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stretto.runtime.stage import cut_nodes, engine, hooks, node_calls
from stretto.runtime.stage.cut_nodes import CutNode
from stretto.runtime.stage.engine import edge_of
from stretto.runtime.stage.graph_cut import cut_graph
from stretto.runtime.stage.hooks import hooks_made
from stretto.runtime.stage.private import writable
from stretto.runtime.stage.split_backward import input_gradient, weight_gradient, whole
from tests.runtime.test_weights_memory import ASKED, ROWS, Lower, N, perceptron, run
from tests.support.stage_kinds import KINDS, same
from tests.support.training import WIDTH


def test_i_is_one_run_of_the_engine_and_w_two(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []

    def counting(place: Any) -> Any:
        real = place.RUN

        def run_(*args: Any, **more: Any) -> Any:
            runs.append(place.__name__)
            return real(*args, **more)

        return run_

    for place in (engine, node_calls):
        monkeypatch.setattr(place, "RUN", counting(place))
    for depth in (1, 9):
        module = nn.Sequential(*(perceptron() for _ in range(depth)))
        _, deferred, _ = run(module, torch.randn(ROWS, N), hooks_made())
        assert len(runs) == 1
        weight_gradient(deferred)
        assert len(runs) == 3
        runs.clear()


def compared(module: nn.Module, x: Tensor) -> bool:
    """Whether halves give what the whole gives, to the last bit, both ways."""
    leaf = x.clone().requires_grad_()
    output = module(leaf)
    expected = [*whole([output], (torch.ones_like(output),), [leaf]), *taken(module)]
    found = []
    for asked in (True, False):
        given, deferred, _ = run(module, x, hooks_made() if asked else None)
        weight_gradient(deferred)
        found.append([*given, *taken(module)])
    return all(
        b is None if a is None else b is not None and torch.equal(a, b)
        for own in found
        for a, b in zip(own, expected, strict=True)
    )


def taken(module: nn.Module) -> list[Tensor | None]:
    found = [p.grad for p in module.parameters()]
    module.zero_grad(set_to_none=True)
    return found


class Hooked(nn.Module):
    """Layers whose activation, or the node that makes it, has a hook."""

    def __init__(self, hook: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(N, N), nn.Linear(N, N)
        self.hook = hook

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        if hidden.requires_grad:
            self.hook(hidden)
        return self.second(torch.tanh(hidden))


def tripled(gradients: Iterable[Tensor | None]) -> tuple[Tensor | None, ...]:
    return tuple(None if g is None else 3 * g for g in gradients)


def node_of(tensor: Tensor) -> Any:
    return tensor.grad_fn


HOOKS: dict[str, Callable[[Tensor], Any]] = {
    "of the tensor": lambda t: t.register_hook(lambda g: 3 * g),
    "before its node": lambda t: node_of(t).register_prehook(tripled),
    "behind its node": lambda t: node_of(t).register_hook(lambda found, _: tripled(found)),
}


@pytest.mark.parametrize("hook", HOOKS.values(), ids=list(HOOKS))
def test_hooks_of_activations_change_weights_as_in_one_piece(hook: Any) -> None:
    torch.manual_seed(0)
    assert compared(Hooked(hook), torch.randn(ROWS, N))


def test_hooks_of_activations_run_once() -> None:
    calls: list[Tensor] = []
    module = Hooked(lambda t: t.register_hook(calls.append))
    for asked in (True, False):
        _, deferred, _ = run(module, torch.randn(ROWS, N), hooks_made() if asked else None)
        weight_gradient(deferred)
        assert len(calls) == 1
        calls.clear()


@ASKED
def test_what_was_written_on_since_is_an_error(asked: bool) -> None:
    module, kept = perceptron(), []
    module[1].register_forward_hook(lambda _, given, output: kept.append(output.detach()))
    _, deferred, _ = run(module, torch.randn(ROWS, N), hooks_made() if asked else None)
    kept[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        weight_gradient(deferred)


@ASKED
def test_what_was_freed_since_is_an_error(asked: bool) -> None:
    module, kept = perceptron(), []
    module[0].register_forward_hook(lambda _, given, output: kept.append(output))
    _, deferred, _ = run(module, torch.randn(ROWS, N), hooks_made() if asked else None)
    kept[0].sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        weight_gradient(deferred)


def test_anomalies_of_weights_are_found() -> None:
    scale = nn.Parameter(torch.ones(N))
    leaf = torch.full((ROWS, N), torch.inf).requires_grad_()
    output = leaf * scale
    found, deferred = input_gradient([output], (torch.zeros(ROWS, N),), [leaf], hooks_made())
    assert found[0] is not None and found[0].isfinite().all()
    wrong = pytest.raises(RuntimeError, match="MulBackward0' returned nan")
    with wrong, pytest.warns(UserWarning), torch.autograd.detect_anomaly():
        weight_gradient(deferred)


def test_a_graph_of_two_threads_is_not_taken_for_one_in_order() -> None:
    """Numbers of nodes are counted by thread: the engine's order is theirs where they rise. Sums of
    many terms show the order to the last bit."""
    torch.manual_seed(0)
    leaf, weight = torch.randn(ROWS, N).requires_grad_(), nn.Parameter(torch.randn(N, N))
    made = [leaf]
    for _ in range(6):
        made.append(torch.tanh(made[-1]) @ weight)
    (expected,) = torch.autograd.grad(made[-1].sum(), weight, retain_graph=True)
    assert cut_graph([edge_of(made[-1])], [edge_of(leaf)]).in_order
    node_of(made[2])._set_sequence_nr(2**40)
    assert not cut_graph([edge_of(made[-1])], [edge_of(leaf)]).in_order
    above = torch.ones_like(made[-1])
    _, deferred = input_gradient([made[-1]], (above,), [leaf], hooks_made())
    weight_gradient(deferred)
    assert weight.grad is not None and torch.equal(weight.grad, expected)


def test_w_of_several_threads() -> None:
    torch.manual_seed(0)
    modules = [perceptron() for _ in range(4)]
    x = torch.randn(ROWS, N)
    for module in modules:
        module.load_state_dict(modules[0].state_dict())

    def train(module: nn.Module) -> None:
        for _ in range(20):
            _, deferred, _ = run(module, x, hooks_made())
            weight_gradient(deferred)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(train, modules))
    first, *others = [taken(module) for module in modules]
    for other in others:
        assert all(map(torch.equal, first, other))  # type: ignore[arg-type]


def test_deterministic_algorithms_are_asked_for_in_w_too() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(N, N))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.table[torch.tensor([1, 1, 2, 1])]

    torch.use_deterministic_algorithms(True)
    try:
        assert compared(Words(), torch.randn(ROWS, N))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_stages_where_no_hook_was_made(name: str) -> None:
    """`test_stage_kinds` has the others; here the forward's number of hooks is known."""
    torch.manual_seed(3)
    module = KINDS[name]()
    x = torch.randn(4, WIDTH)

    def made(halves: bool) -> list[Tensor | None]:
        torch.manual_seed(4)
        hooks, leaf = hooks_made(), x.clone().requires_grad_()
        output = module(writable(leaf))
        above = torch.ones_like(output)
        if not halves:
            return [*whole([output], (above,), [leaf]), *taken(module)]
        given, deferred = input_gradient([output], (above,), [leaf], hooks)
        weight_gradient(deferred)
        return [*given, *taken(module)]

    made(False)  # what a forward changes in the module, or draws, is settled
    if name == "spectral-norm":
        module.eval()
    assert all(map(same, made(True), made(False)))


def refused() -> None:
    raise RuntimeError("Cannot access accelerator device when none is available.")


def test_what_ran_on_another_stream_is_run_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device's stream, played by a number: the engine knows the node's, a call would not."""
    device = torch.device("cpu")
    for place in (engine, hooks, cut_nodes):
        monkeypatch.setattr(place, "ACCELERATOR", device)
    here = [1]
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda _: here[0])
    forked: list[Any] = []
    real = cut_nodes._forked

    def counted(cut: Any, known: Any) -> None:
        forked.append(cut)
        real(cut, known)

    monkeypatch.setattr(cut_nodes, "_forked", counted)
    torch.manual_seed(0)
    module, x = perceptron(), torch.randn(ROWS, N)
    sums = []
    for stream in (1, 2):
        here[0] = 1
        _, deferred, _ = run(module, x, hooks_made())
        here[0] = stream
        weight_gradient(deferred)
        sums.append(taken(module))
        assert len(forked) == (0 if stream == 1 else 3)
    assert all(map(same, *sums))


def test_a_torch_that_does_not_do_so_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert node_calls.nodes_can_be_called()
    with monkeypatch.context() as other:
        other.setattr(node_calls, "computing_only", lambda edges, work: work())
        assert not node_calls.nodes_can_be_called()
    with monkeypatch.context() as other:
        other.setattr(node_calls, "computing_only", lambda edges, work: None)
        assert not node_calls.nodes_can_be_called()
    with monkeypatch.context() as other:
        other.setattr(torch.accelerator, "current_accelerator", refused)
        assert engine._accelerator() is None
    with monkeypatch.context() as other:
        other.delattr(RemovableHandle, "next_id")
        assert hooks_made() is None
    with monkeypatch.context() as other:
        other.setattr(sys, "getrefcount", lambda _: 2)
        assert cut_nodes.owners_if_alone() is None


def test_a_factor_that_was_dropped_is_never_computed_with() -> None:
    module = Lower()
    _, deferred, _ = run(module, torch.randn(ROWS, N), hooks_made())
    (cut,) = deferred.cuts
    assert isinstance(cut, CutNode)
    with pytest.raises(RuntimeError):
        cut.node(*cut.arrived)  # type: ignore[operator]
    weight_gradient(deferred)
    assert module.layer.weight.grad is not None
