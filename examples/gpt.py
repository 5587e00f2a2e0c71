"""A small GPT that learns to write like Python's own documentation, one byte at a time.

It is what `stretto.runtime` asks of a model, in the plainest way: `MODEL` can build any stage of
any number of stages, each with weights that depend on nothing but the two numbers; `DATA` gives the
batch of a step, the same on every rank. Try it:

    stretto run dualpipe --set ranks=4 --set microbatches=8 \
        --model examples/gpt.py:MODEL --data examples/gpt.py:DATA --steps 60
    python examples/gpt.py            # the same curve by one process, without stretto

Its stages also run slices of sequences, one after another: what a slice leaves for the next ones of
its stage are the keys and values of its layers, `carried`.

    stretto run examples/seq1f1b.pipe --model examples/gpt.py:MODEL --data examples/gpt.py:DATA \
        --steps 60 --verify
"""

import argparse
import pydoc_data.topics
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY = 256  # bytes
WIDTH, HEADS, CONTEXT = 64, 4, 64
LAYERS = 8  # at least; a model of more stages has one layer in each
BATCH = 32  # sequences in a step, over all micro-batches
RATE = 2e-3

Memory = tuple[Tensor, Tensor]
"""Keys and values of some bytes in one layer: (sequences, HEADS, bytes, WIDTH / HEADS)."""


class Block(nn.Module):
    """One layer of the decoder: attention to what came before, then a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(WIDTH)
        self.into_attention = nn.Linear(WIDTH, 3 * WIDTH)
        self.out_of_attention = nn.Linear(WIDTH, WIDTH)
        self.before_perceptron = nn.LayerNorm(WIDTH)
        self.widen = nn.Linear(WIDTH, 4 * WIDTH)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, before: Sequence[Memory] = ()) -> tuple[Tensor, Memory]:
        """Vectors to vectors: (sequences, bytes, WIDTH) on both sides; and the keys and values of
        these bytes, as `before` has those of earlier ones."""
        batch, length, _ = x.shape
        parts = self.into_attention(self.before_attention(x)).chunk(3, dim=-1)
        q, k, v = (part.view(batch, length, HEADS, -1).transpose(1, 2) for part in parts)
        if before:
            keys = torch.cat([*(keys for keys, _ in before), k], dim=2)
            values = torch.cat([*(values for _, values in before), v], dim=2)
            many = keys.shape[2]
            past = torch.ones(length, many, dtype=torch.bool, device=x.device).tril(many - length)
            seen = F.scaled_dot_product_attention(q, keys, values, attn_mask=past)
        else:
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out_of_attention(seen.transpose(1, 2).reshape(batch, length, WIDTH))
        x = x + self.narrow(F.gelu(self.widen(self.before_perceptron(x))))
        return x, (k, v)


class Stage(nn.Module):
    """Some layers in a row; the first stage has the embedding too, the last the head."""

    def __init__(self, index: int, count: int):
        super().__init__()
        layers = max(LAYERS, count)
        mine = range(index * layers // count, (index + 1) * layers // count)
        self.embedding = Embedding() if index == 0 else None
        self.blocks = nn.ModuleList()
        for number in mine:  # in the model, where this is its name in a checkpoint
            self.blocks.add_module(str(number), Block())
        self.head = Head() if index == count - 1 else None

    def forward(self, x: Tensor, carried: Sequence[tuple[Memory, ...]] | None = None) -> Any:
        """Bytes (first stage) or vectors to vectors or, in the last stage, a score per byte.

        Where x is a slice of longer sequences, `carried` has what earlier slices have left, and
        what this one leaves is returned too: the keys and values of each layer."""
        earlier = carried or ()
        if self.embedding is not None:
            x = self.embedding(x, sum(left[0][0].shape[2] for left in earlier))
        memories = []
        for layer, block in enumerate(self.blocks):
            x, memory = block(x, [left[layer] for left in earlier])
            memories.append(memory)
        x = x if self.head is None else self.head(x)
        return x if carried is None else (x, tuple(memories))


class Embedding(nn.Module):
    """A vector for every byte, plus one for its place in the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)

    def forward(self, tokens: Tensor, start: int) -> Tensor:
        """(sequences, bytes) of numbers to (sequences, bytes, WIDTH); they start at place `start`
        of their sequences."""
        places = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        x: Tensor = self.bytes(tokens) + self.places(places)
        return x


class Head(nn.Sequential):
    """A score for each byte that could come next."""

    def __init__(self) -> None:
        super().__init__(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY))


class GPT:
    """The protocol of `stretto.runtime`."""

    def stage(self, index: int, count: int) -> nn.Module:
        """Stage `index` of `count`, with the same weights wherever and whenever it is built."""
        with torch.random.fork_rng():
            torch.manual_seed(1000 * count + index)
            stage = Stage(index, count)
            for parameter in stage.parameters():
                if parameter.dim() == 2:
                    nn.init.normal_(parameter, std=0.05)
        return stage

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean loss of one micro-batch."""
        return F.cross_entropy(output.flatten(0, 1), target.flatten())

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of one rank's parameters."""
        return torch.optim.AdamW(parameters, lr=RATE)

    def eval_data(self) -> list[tuple[Tensor, Tensor]]:
        """Batches that training does not come to."""
        return [data(step) for step in range(10_000, 10_004)]


@cache
def text() -> Tensor:
    """Python's help topics: half a megabyte of English that every installation has."""
    source = Path(pydoc_data.topics.__file__).read_bytes()
    return torch.frombuffer(bytearray(source), dtype=torch.uint8).long()


def data(step: int) -> tuple[Tensor, Tensor]:
    """Random pieces of the text, and what comes one byte later."""
    draw = torch.Generator().manual_seed(step)
    starts = torch.randint(len(text()) - CONTEXT - 1, (BATCH,), generator=draw)
    pieces = torch.stack([text()[start : start + CONTEXT + 1] for start in starts.tolist()])
    return pieces[:, :-1], pieces[:, 1:]


MODEL, DATA = GPT(), data


def alone(stages: int, microbatches: int, steps: int) -> list[float]:
    """The losses of a plain training loop in one process: the same model, micro-batch by
    micro-batch."""
    model = nn.Sequential(*(MODEL.stage(index, stages) for index in range(stages)))
    optimizer = MODEL.optimizer(list(model.parameters()))
    losses = []
    for step in range(1, steps + 1):
        x, target = DATA(step)
        total = 0.0
        for part, wanted in zip(x.chunk(microbatches), target.chunk(microbatches), strict=True):
            loss = MODEL.loss(model(part), wanted)
            (loss / microbatches).backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total / microbatches)
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The loss curve of one process.")
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--microbatches", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    chosen = parser.parse_args()
    for step, loss in enumerate(alone(chosen.stages, chosen.microbatches, chosen.steps), 1):
        print(f"step {step}  loss {loss:.4f}")
