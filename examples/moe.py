r"""A small GPT with experts, whose communication runs under its computation.

Every layer sends each token to one of four experts. The experts are spread over two processes, so
tokens travel to them and back: two all-to-alls in every layer, forward and backward. The schedule
`deepseek_v3` cuts each stage into parts on two streams and lays one micro-batch's all-to-alls under
another's attention and experts. Four processes: two pipelines of two ranks; the processes that hold
the same stages, one of each pipeline, share their experts.

    torchrun --standalone --nproc-per-node 4 examples/moe.py
    torchrun --standalone --nproc-per-node 4 examples/moe.py --check    # against one process
    stretto run deepseek_v3 --set ranks=2 --set microbatches=8 --model examples/moe.py:MODEL \
        --data examples/moe.py:DATA --verify                            # all experts on each rank

`--check` takes a step in double precision and compares its gradients with those of the same model,
whole, in one process.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
from gpt import DATA, RATE, WIDTH, Embedding, Head  # type: ignore[import-not-found]

from stretto.compiler import compile_file
from stretto.runtime import Executor, all_to_all, stage_counts, stages_of, stream_group

HEADS, EXPERTS = 4, 4
RANKS, SHARDS, MICROBATCHES = 2, 2, 8  # of a pipeline; pipelines; of a step of each
PARTS = ("attention", "dispatch", "mlp", "combine")


class Layer(nn.Module):
    """One layer: attention, then an expert for each token. Process `shard` of `shards` holds its
    share of the experts; one of one holds all of them and sends nothing."""

    def __init__(self, shard: int, shards: int):
        super().__init__()
        self.shard, self.shards = shard, shards
        self.before_attention, self.before_experts = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.into_attention = nn.Linear(WIDTH, 3 * WIDTH)
        self.out_of_attention = nn.Linear(WIDTH, WIDTH)
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        every = [
            nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
            for _ in range(EXPERTS)
        ]
        own = EXPERTS // shards
        self.experts = nn.ModuleList(every[shard * own : (shard + 1) * own])

    def attention(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the experts are given, ordered by expert, and how many each; and for `combine` the
        residual, the weight of each token's expert, and the order."""
        batch, length, _ = x.shape
        parts = self.into_attention(self.before_attention(x)).chunk(3, dim=-1)
        q, k, v = (part.view(batch, length, HEADS, -1).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out_of_attention(seen.transpose(1, 2).reshape(batch, length, WIDTH))
        tokens = self.before_experts(x).flatten(0, 1)
        weight, expert = self.gate(tokens).softmax(-1).max(-1)
        order = expert.argsort(stable=True)
        return tokens[order], torch.bincount(expert, minlength=EXPERTS), x, weight, order

    def dispatch(self, tokens: Tensor, counts: Tensor, *rest: Tensor) -> tuple[Any, ...]:
        """Tokens to the processes that have their experts. How many come is asked first: the host
        waits for that, on this stream alone."""
        received = counts
        if self.shards > 1:
            received = torch.empty_like(counts)
            dist.all_to_all_single(received, counts, group=stream_group())
        come, go = (n.view(self.shards, -1).sum(1).tolist() for n in (received, counts))
        if self.shards > 1:
            tokens = all_to_all(tokens, come, go)
        return tokens, received.tolist(), (come, go), rest

    def mlp(self, tokens: Tensor, received: Sequence[int], sizes: Any, rest: Any) -> Any:
        """Each expert on its tokens: those of the first process, then the second's."""
        pieces = list(tokens.split(list(received)))
        own = len(self.experts)
        mine = [torch.cat(pieces[e::own]) for e in range(own)]
        made = [
            expert(piece).split(list(received[e::own]))
            for e, (expert, piece) in enumerate(zip(self.experts, mine, strict=True))
        ]
        return torch.cat([made[k % own][k // own] for k in range(len(pieces))]), sizes, rest

    def combine(self, tokens: Tensor, sizes: tuple[list[int], list[int]], rest: Any) -> Tensor:
        """Tokens back where they came from, into their places, and added to the residual."""
        come, go = sizes
        if self.shards > 1:
            tokens = all_to_all(tokens, go, come)
        x, weight, order = rest
        back = torch.zeros_like(tokens).index_copy(0, order, tokens)
        added: Tensor = x + (weight[:, None] * back).view_as(x)
        return added


class Stage(nn.Module):
    """Some layers, each in four parts; the first part of all has the embedding in it, the last one
    the head."""

    def __init__(self, index: int, count: int, layers: int, shard: int, shards: int):
        super().__init__()
        self.parts = [(name, layer) for layer in range(layers) for name in PARTS]
        self.embedding = Embedding() if index == 0 else None
        self.layers = nn.ModuleList(Layer(shard, shards) for _ in range(layers))
        self.head = Head() if index == count - 1 else None

    def part(self, name: str, layer: int) -> Callable[..., Any]:
        """What runs a part: it is called with what the one before returned."""
        run: Callable[..., Any] = getattr(self.layers[layer], name)
        if (name, layer) == self.parts[0] and self.embedding is not None:
            return partial(self._first, self.embedding, run)
        if (name, layer) == self.parts[-1] and self.head is not None:
            return partial(self._last, self.head, run)
        return run

    def _first(self, embedding: nn.Module, run: Callable[..., Any], x: Tensor) -> Any:
        return run(embedding(x, 0).to(self.layers[0].gate.weight.dtype))  # type: ignore[union-attr]

    def _last(self, head: nn.Module, run: Callable[..., Any], *handed: Any) -> Any:
        return head(run(*handed))


class MoE:
    """The protocol of `stretto.runtime`, with this process's share of the experts."""

    def __init__(self, layers: int = 1, shard: int = 0, shards: int = 1):
        self.layers, self.shard, self.shards = layers, shard, shards

    def stage(self, index: int, count: int) -> nn.Module:
        """Stage `index` of `count`; its weights are the same wherever they are."""
        with torch.random.fork_rng():
            torch.manual_seed(1000 * count + index)
            stage = Stage(index, count, self.layers, self.shard, self.shards)
        return stage

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean loss of one micro-batch."""
        return F.cross_entropy(output.flatten(0, 1), target.flatten())

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of one rank's parameters."""
        return torch.optim.AdamW(parameters, lr=RATE)


MODEL = MoE()


def average(executor: Executor, group: dist.ProcessGroup) -> None:
    """The gradients of the mean over both pipelines. An expert has had the tokens of both; all else
    is held by each of them, and has had its own."""
    for name, parameter in executor.named_parameters():
        if parameter.grad is not None:
            if ".experts." not in name:
                dist.all_reduce(parameter.grad, group=group)
            parameter.grad /= SHARDS


def train(chosen: argparse.Namespace, rank: int) -> None:
    """Trains, or checks one step, as one of four processes."""
    pipelines: list[Any] = [
        dist.new_group([d * RANKS + p for p in range(RANKS)]) for d in range(SHARDS)
    ]
    sharing: list[Any] = [
        dist.new_group([d * RANKS + p for d in range(SHARDS)]) for p in range(RANKS)
    ]
    shard, place = divmod(rank, RANKS)
    plan = compile_file("deepseek_v3", ranks=RANKS, microbatches=MICROBATCHES, layers=chosen.layers)
    model = MoE(chosen.layers, shard, SHARDS)
    counts = stage_counts(plan)
    kind = torch.float64 if chosen.check else torch.float32
    stages = {
        key: model.stage(key.stage, counts[key.pipeline]).to(kind) for key in stages_of(plan, place)
    }
    executor = Executor(
        plan, stages, model.loss, group=pipelines[shard], collectives=sharing[place]
    )
    optimizer = model.optimizer(list(executor.parameters()))
    for step in range(1, 2 if chosen.check else chosen.steps + 1):
        x, target = (whole.chunk(SHARDS)[shard] for whole in DATA(step))
        losses: Any = {}
        executor.step(x, target=target, losses=losses, return_outputs=False)
        average(executor, sharing[place])
        if chosen.check:
            check(executor, chosen.layers, shard, rank)
            break
        optimizer.step()
        optimizer.zero_grad()
        if rank == 0:
            mean = torch.stack([loss for found in losses.values() for loss in found]).mean()
            print(f"step {step}  loss {mean.item():.4f}", flush=True)
    executor.close()


def check(executor: Executor, layers: int, shard: int, rank: int) -> None:
    """Compares this process's gradients with those of the whole model in one process: all experts
    in it, no plan, no parts."""
    model = MoE(layers)
    whole = [model.stage(index, RANKS).double() for index in range(RANKS)]
    x, target = DATA(1)
    for piece, wanted in zip(x.chunk(MICROBATCHES), target.chunk(MICROBATCHES), strict=True):
        for stage in whole:
            piece = alone(stage, piece)
        (model.loss(piece, wanted) / MICROBATCHES).backward()
    own, worst = EXPERTS // SHARDS, 0.0
    theirs = {
        f"[{index}].{name}": p for index, s in enumerate(whole) for name, p in s.named_parameters()
    }
    for name, parameter in executor.named_parameters():
        words = name[name.index("[") :].split(".")
        if "experts" in words:  # here they count from the first of this process
            at = words.index("experts") + 1
            words[at] = str(int(words[at]) + shard * own)
        gradient = theirs[".".join(words)].grad
        ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        expected = torch.zeros_like(ours) if gradient is None else gradient
        worst = max(
            worst, (ours - expected).abs().max().item() / (expected.abs().max().item() + 1e-9)
        )
    print(f"process {rank}: gradients differ from one process's by {worst:.1e} at most", flush=True)
    if worst > 1e-9:
        raise SystemExit(1)


def alone(stage: Any, x: Any) -> Any:
    """The stage in one piece: its parts one after another, in one graph."""
    handed: Any = (x,)
    for name, layer in stage.parts:
        made = stage.part(name, layer)(*handed)
        handed = made if isinstance(made, tuple) else (made,)
    return handed[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a small GPT with experts.")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--layers", type=int, default=1, help="of each stage")
    parser.add_argument("--check", action="store_true", help="one step, against one process")
    chosen = parser.parse_args()
    if not dist.is_torchelastic_launched():
        parser.error("start it by `torchrun --standalone --nproc-per-node 4 examples/moe.py`")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    dist.init_process_group("gloo")
    train(chosen, dist.get_rank())
    dist.destroy_process_group()
