"""Our orders in the runtime of AMD's Primus: its own table factory, its runner and its handlers of
forwards, backwards, weight gradients and messages, over gloo on a CPU; the gradients are compared
to those of one process.

    python benchmarks/primus_runtime.py --primus FOLDER  # a clone of AMD-AGI/Primus; needs torch

What stands in for what a CPU lacks: `megatron` (`forward_step` and `backward_step` call one linear
stage and autograd, options are `communication_method` alone), `torch.cuda.current_device` and
`synchronize`, and the offloading of activations, which is off.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from generators import commit, module, packages, stand_in

from stretto.compiler.driver import compile_file
from stretto.compiler.show import draw
from tests.support.ranks import run

WIDTH, ROWS, RANKS, MANY = 8, 2, 4, 8
CASES = {"zb_h1": "zero-bubble", "one_f_one_b": "zero-bubble", "zb_v": "zbv-formatted",
         "dualpipe_v": "zbv-formatted", "interleaved_1f1b": "1f1b-interleaved"}  # fmt: skip

CHUNKS = {"zero-bubble": 1, "zbv-formatted": 2, "1f1b-interleaved": 2}


def weight(stage: int) -> Tensor:
    torch.manual_seed(stage)
    made: Tensor = torch.randn(WIDTH, WIDTH, dtype=torch.float64) / WIDTH**0.5
    return made


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(99)
    x, y = torch.randn(2, MANY, ROWS, WIDTH, dtype=torch.float64)
    return x, y


def loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean() / MANY


def alone(stages: int) -> list[Tensor]:
    """The gradients of one process."""
    weights = [weight(s).requires_grad_() for s in range(stages)]
    for part, target in zip(*batch(), strict=True):
        for one in weights:
            part = torch.tanh(part @ one)
        loss(part, target).backward()
    return [one.grad for one in weights if one.grad is not None]


def primus(folder: Path, method: str) -> Any:
    """Primus's modules, with what they import of Megatron stood in for."""
    runtime = "primus.backends.megatron.core.pipeline_parallel"
    homes = ("primus.core.utils", "primus.core.pipeline_parallel", f"{runtime}.primuspipe.handlers")
    packages(folder, "primus", *homes)
    stand_in("primus.core.utils.module_utils", log_rank_0=print)
    stand_in(f"{runtime}.pp_visualizer", fwd_bwd_wrapper=None)
    settings = SimpleNamespace(
        communication_method=method, overlap_moe_expert_parallel_comm=False, dump_pp_data=False
    )
    buffer = SimpleNamespace(
        set_current_mini_batch_and_chunk=lambda *_: None,
        check_empty=lambda: None,
        record_offload_memory_info=False,
    )
    stand_in("primus.core.pipeline_parallel.handler.offload_handler", OFFLOAD_BUFFER=buffer)
    stand_in("megatron.training", get_args=lambda: settings)
    stand_in("megatron.training.global_vars", get_args=lambda: settings)
    stand_in("megatron.core.pipeline_parallel.combined_1f1b", combined_forward_backward_step=None)
    handlers = {}
    stand_in(
        "megatron.core.pipeline_parallel.schedules",
        deallocate_output_tensor=lambda *_: None,
        forward_step=forward_step,
        backward_step=backward_step,
    )
    cuda: Any = torch.cuda
    cuda.current_device, cuda.synchronize = lambda: "cpu", lambda: None
    nodes = module("primus.core.pipeline_parallel.scheduler.scheduler_node")
    home = f"{runtime}.primuspipe.handlers"
    wgrad = module("primus.core.pipeline_parallel.handler.wgrad_handler")
    forward = module(f"{home}.fwd_handler").megatron_fwd_handler
    backward = module(f"{home}.bwd_handler").megatron_bwd_handler
    message = module(f"{home}.communication_handler").batch_p2p_communication_handler
    for word, handler in (("F", forward), ("B", backward), ("BW", backward)):
        handlers[nodes.FuncType[word]] = handler
    handlers[nodes.FuncType.W] = wgrad.default_wgrad_handler
    handlers |= {nodes.FuncType[word]: message for word in ("SF", "SB", "RF", "RB")}
    runner = module("primus.core.pipeline_parallel.scheduler.scheduler").ScheduleRunner(handlers)
    return SimpleNamespace(
        nodes=nodes,
        runner=runner,
        cache=wgrad.WGRAD_RUNNING_CACHE,
        base=module("primus.core.pipeline_parallel.scheduler.algorithms.base"),
        factory=module("primus.core.pipeline_parallel.scheduler.schedule_table_factory"),
    )


class Linear(torch.autograd.Function):
    """`x @ w`, whose weight gradient goes to the store of Primus, as its own linear layers' do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stage: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.stage = stage
        made: Tensor = x @ stage.weight
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x,), stage, (gradient,) = ctx.saved_tensors, ctx.stage, gradients

        def later() -> None:
            stage.gradient += x.T @ gradient

        stage.cache.append(later)
        return gradient @ stage.weight.T, None


def forward_step(**given: Any) -> tuple[Tensor, int]:
    """One stage: its input from the message or, on the first, from data; on the last the loss."""
    data = next(given["data_iterator"])
    x = given["input_tensor"][0]
    if x is None:
        x = data[0].clone().requires_grad_()
    linear: Any = Linear.apply
    output = torch.tanh(linear(x, given["model"]))
    return (loss(output, data[1]) if given["is_last_stage"] else output), 0


def backward_step(**given: Any) -> list[Tensor | None]:
    """The input gradient, as Megatron's returns it: None on the first stage, which got no input."""
    x = given["input_tensor"][0]
    torch.autograd.backward(given["output_tensor"][0], given["output_tensor_grad"][0])
    return [None if x is None else x.grad]


def table_of(text: str, algorithm: str, chunks: int, theirs: Any) -> list[list[Any]]:
    """The table as Primus gets it, with the lines of `docs/tables.md` run as they stand there."""
    guide = (Path(__file__).parent.parent / "docs" / "tables.md").read_text()
    lines = next(part for part in guide.split("```python\n") if part.startswith("class FromFile"))
    v = algorithm == "zbv-formatted"
    base = theirs.base.VFoldScheduleAlgo if v else theirs.base.PipelineScheduleAlgo
    names = {**vars(theirs.nodes), "schedule_table_factory": theirs.factory}
    with TemporaryDirectory() as folder:
        (Path(folder) / "order.csv").write_text(text)
        file = Path(folder) / "order.csv"
        given = {**names, "PipelineScheduleAlgo": base, "open": lambda _: file.open()}
        exec(lines.split("```")[0].replace("zbv-formatted", algorithm), given)
        made = theirs.factory.produce_schedule_instance(algorithm, RANKS, chunks, MANY)
        if made.last_pp_stage_rank() != (0 if v else RANKS - 1):
            raise RuntimeError("the last stage is elsewhere")
        table: list[list[Any]] = made.generate_schedule_table()
        return table


def step(rank: int, folder: str, text: str, algorithm: str, method: str) -> dict[int, Tensor]:
    """A step of Primus's runner on one rank: the gradients of its stages."""
    theirs = primus(Path(folder), method)
    chunks = CHUNKS[algorithm]
    table = table_of(text, algorithm, chunks, theirs)
    v = algorithm == "zbv-formatted"
    stages = [c * RANKS + (RANKS - 1 - rank if v and c % 2 else rank) for c in range(chunks)]
    own = [
        SimpleNamespace(weight=weight(s), gradient=torch.zeros(WIDTH, WIDTH, dtype=torch.float64),
                        cache=theirs.cache)
        for s in stages
    ]  # fmt: skip
    shapes = [torch.Size((ROWS, WIDTH))]
    config = SimpleNamespace(deallocate_pipeline_outputs=False)
    data = [iter([*zip(*batch(), strict=True)]) for _ in stages]
    for node in table[rank]:  # as the launcher does
        node.meta = {"pp_size": RANKS, "vpp_size": chunks, "pp_rank": rank}
        node.meta["last_pp_stage_rank"] = 0 if v else RANKS - 1
        node.args |= {
            "config": config, "models": own, "data_iterator": data, "num_microbatches": MANY,
            "forward_step_func": None, "forward_data_store": [], "collect_non_loss_data": False,
            "is_last_stage": False, "total_num_tokens": 0, "cp_group_size": 1, "model_type": None,
            "recv_tensor_shapes": shapes, "send_tensor_shapes": shapes, "dtype": torch.float64,
            "pp_group": dist.group.WORLD,
        }  # fmt: skip
    theirs.runner.run(table, rank)
    dist.barrier()  # Primus leaves its last sends under way
    if not theirs.cache.is_empty():
        raise RuntimeError("weight gradients were left over")
    return {s: one.gradient for s, one in zip(stages, own, strict=True)}


def main() -> None:
    """Print what was run, and how far the gradients are from those of one process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--primus", type=Path, required=True, metavar="FOLDER")
    folder = parser.parse_args().primus
    print(
        f"Primus {commit(folder)}, PyTorch {torch.__version__}, {RANKS} ranks, {MANY} micro-batches"
    )
    for name, algorithm in CASES.items():
        text = draw(compile_file(name, ranks=RANKS, microbatches=MANY), "primus")
        for method in ("batch_p2p", "async_p2p"):
            print(
                f"{name} as {algorithm}, {method}: {off(folder, text, algorithm, method)}",
                flush=True,
            )


def off(folder: Path, text: str, algorithm: str, method: str) -> str:
    """How far the gradients of a step of Primus's runner are from those of one process."""
    outcome = run(RANKS, step, str(folder), text, algorithm, method, seconds=120.0)
    found = {s: g for own in outcome.results for s, g in own.items()}
    expected = alone(len(found))
    far = max(float((found[s] - g).detach().abs().max()) for s, g in enumerate(expected))
    largest = max(float(g.abs().max()) for g in expected)
    return f"{len(found)} stages, off by {far:.1e} of {largest:.1e}"


if __name__ == "__main__":
    main()
