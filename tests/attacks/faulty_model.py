"""A model that does a fault by itself: `FAULT`, at the `MOMENT`, on the rank `CULPRIT`. It notes
when, and which process it was. Copied into the folder of an attack, where it is a user's own."""

import atexit
import os
import signal
import sys
import threading
import time
from typing import Any

import torch
from torch import Tensor, nn

SECOND = 6  # the call in which a step is under way: the second micro-batch of the second step


class StrangeError(Exception):
    """That cannot be printed, nor pickled, and steers a terminal where it is printed all the
    same."""

    def __init__(self) -> None:
        super().__init__("\x1b[2J\u202e\n::error::owned")
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise RuntimeError("\x1b[31mno words")

    __repr__ = __str__


def rank() -> str:
    """Of this process, or of this thread where ranks are threads."""
    name = threading.current_thread().name
    return name.removeprefix("rank ") if name.startswith("rank ") else os.environ.get("RANK", "")


def due(moment: str) -> bool:
    """Whether it is to happen here and now, which is noted."""
    if os.environ["MOMENT"] != moment or rank() != os.environ["CULPRIT"]:
        return False
    with open("faulted", "w") as file:
        file.write(f"{time.time()} {os.getpid()}")
    return True


def act(moment: str) -> None:
    """Does the fault, if it is due."""
    if not due(moment):
        return
    match os.environ["FAULT"]:
        case "kill" | "segv" | "abrt" | "term" | "int" | "hup" | "stop" as name:
            os.kill(os.getpid(), getattr(signal, f"SIG{name.upper()}"))
            if name in ("term", "int", "hup"):  # which come to another thread of ours
                time.sleep(1000)
        case "leave":
            os._exit(3)
        case "raise":
            raise ValueError("too large")
        case "strange":
            raise StrangeError
        case "exit":
            sys.exit(4)
        case "memory":
            torch.empty(1 << 60)
        case "sleep":
            time.sleep(1000)
        case "spin":
            while True:
                pass
        case "orphan":  # who holds the connections of a rank that is gone
            if os.fork():
                os.kill(os.getpid(), signal.SIGKILL)
            with open("orphan", "w") as file:
                file.write(str(os.getpid()))
            time.sleep(20)
            os._exit(0)


act("import")
if os.environ["MOMENT"] == "end":
    atexit.register(act, "end")


class Layer(nn.Module):
    """A stage."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(4, 4), 0
        self.linear.weight.register_post_accumulate_grad_hook(self._weights)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        here = "first" if self.calls == 1 else "forward" if self.calls == SECOND else ""
        fault = os.environ["FAULT"]
        if fault in ("shape", "nan") and due(here):
            y: Tensor = self.linear(x)
            return y[:, :3] if fault == "shape" else y * float("nan")
        act(here)
        y = self.linear(x)
        if self.calls == SECOND and y.requires_grad:
            y.register_hook(lambda gradient: act("backward"))
        return y

    def _weights(self, _: Tensor) -> None:
        if self.calls >= SECOND:
            act("weights")

    def __getstate__(self) -> Any:
        raise TypeError("of no other process")


class Optimizer(torch.optim.SGD):
    """The fault comes in its second step, or where a checkpoint asks for its state."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        if self.steps == 2:
            act("optimizer")
        return super().step(closure)


class Mine:
    """As a user writes it."""

    losses = 0

    def stage(self, index: int, count: int) -> nn.Module:
        act("build")
        torch.manual_seed(index)
        return Layer()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        self.losses += 1
        if self.losses == SECOND:
            act("loss")
        return (output - target).square().mean()

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return Optimizer(parameters, lr=0.1)

    def data(self, step: int) -> tuple[Tensor, Tensor]:
        if step == 2:
            act("data")
        draw = torch.Generator().manual_seed(step)
        return torch.randn(8, 4, generator=draw), torch.zeros(8, 4)

    def state_dict(self) -> dict[str, int]:
        act("checkpoint")
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass


model = Mine()


def own_loop(plan: str = "small.plan", end: str = "closes") -> None:
    """A script's own training, of ranks that torchrun has started."""
    import torch.distributed as dist

    from stretto.runtime import Executor

    dist.init_process_group("gloo")
    number = dist.get_rank()
    stage = model.stage(number, dist.get_world_size())
    executor = Executor(
        plan,
        {("main", number): stage},
        model.loss,
        timeout=float(os.environ["PATIENCE"]),
        on_nonfinite="stop",
    )
    _steps(executor, model.optimizer(executor.parameters()))
    if end == "closes":
        executor.close()
        dist.destroy_process_group()


def own_threads() -> None:
    """A notebook's training: all ranks are threads."""
    from stretto.compiler.plan.plan import read_plan
    from stretto.runtime import Executor, run_local

    patience = float(os.environ["PATIENCE"])

    def one(transport: Any) -> None:
        stage = model.stage(transport.rank, transport.world)
        stages = {("main", transport.rank): stage}
        executor = Executor(
            "small.plan",
            stages,
            model.loss,
            transport=transport,
            timeout=patience,
            on_nonfinite="stop",
        )
        _steps(executor, model.optimizer(executor.parameters()))
        executor.close()

    run_local(read_plan("small.plan"), one)


def _steps(executor: Any, optimizer: torch.optim.Optimizer) -> None:
    for step in range(1, 5):
        x, target = model.data(step)
        executor.step(x, target=target)
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    own_loop(*sys.argv[1:])
