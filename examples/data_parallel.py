"""Two pipelines side by side on a pp × dp mesh, four processes: each trains the GPT of `gpt.py` on
half of the batch, and the gradients of every stage are averaged over the two.

    torchrun --standalone --nproc-per-node 4 examples/data_parallel.py
    torchrun --standalone --nproc-per-node 4 examples/data_parallel.py --how fsdp zb_v
    torchrun --standalone --nproc-per-node 4 examples/data_parallel.py --how ddp dualpipe

It prints the loss of every step, the mean over all micro-batches of both pipelines, and says in the
end whether the replicas' weights are still the same bits.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

sys.path.insert(0, str(Path(__file__).parent))
import gpt  # type: ignore[import-not-found]

from stretto.compiler import compile_file
from stretto.runtime import Executor, stages_of

PIPELINE, REPLICAS = 2, 2  # ranks of a pipeline; pipelines


def wrapped(stage: nn.Module, how: str, replicas: DeviceMesh) -> nn.Module:
    """The stage as data parallelism wants it; `replicas` are the processes that hold it too."""
    if how == "ddp":
        return nn.parallel.DistributedDataParallel(stage, process_group=replicas.get_group())
    if how == "fsdp":
        from torch.distributed.fsdp import fully_shard

        fully_shard(stage, mesh=replicas)
    return stage  # "plain": the executor is told


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that `fully_shard` has sharded; another as it is."""
    gather: Any = getattr(tensor, "full_tensor", None)
    return tensor.detach() if gather is None else gather().detach()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    found.add_argument("schedule", nargs="?", default="one_f_one_b", help="name or file")
    found.add_argument("--how", choices=("plain", "ddp", "fsdp"), default="plain")
    found.add_argument("--steps", type=int, default=5)
    return found


def train(chosen: argparse.Namespace) -> tuple[list[float], bool]:
    """What one process does: the losses of the steps, and whether the replicas ended equal."""
    mesh = init_device_mesh("cpu", (REPLICAS, PIPELINE), mesh_dim_names=("dp", "pp"))
    replica, rank = mesh.get_local_rank("dp"), mesh.get_local_rank("pp")

    plan = compile_file(chosen.schedule, ranks=PIPELINE, microbatches=4)
    count = 1 + max(stage for r in range(PIPELINE) for _, stage in stages_of(plan, r))
    stages = {
        (pipeline, stage): wrapped(gpt.MODEL.stage(stage, count), chosen.how, mesh["dp"])
        for pipeline, stage in stages_of(plan, rank)
    }
    executor = Executor(
        plan,
        stages,
        gpt.MODEL.loss,
        group=mesh.get_group("pp"),
        replicas=mesh["dp"] if chosen.how == "plain" else None,
    )
    optimizer = torch.optim.AdamW(executor.parameters(), lr=gpt.RATE)

    found = []
    for step in range(1, chosen.steps + 1):
        x, target = (part.chunk(REPLICAS)[replica] for part in gpt.DATA(step))
        losses: dict[str, list[Tensor]] = {}
        executor.step(x, target=target, losses=losses, return_outputs=False)
        optimizer.step()
        optimizer.zero_grad()
        own = [float(loss) for row in losses.values() for loss in row]  # none without a last stage
        total = torch.tensor([sum(own), len(own)])
        dist.all_reduce(total)
        found.append(float(total[0] / total[1]))
        if dist.get_rank() == 0:
            print(f"step {step}  loss {found[-1]:.4f}", flush=True)

    weights = torch.cat([whole(p).flatten() for p in executor.parameters()])
    others = [torch.empty_like(weights) for _ in range(REPLICAS)]
    dist.all_gather(others, weights, group=mesh.get_group("dp"))
    executor.close()
    return found, all(torch.equal(weights, other) for other in others)


def main() -> None:
    """Under torchrun."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    _, equal = train(parser().parse_args())
    if dist.get_rank() == 0:
        print(f"the weights of the replicas are {'equal' if equal else 'not equal'}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
