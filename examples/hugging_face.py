"""A small Llama with random weights, from `transformers`, as pipeline stages. It learns to copy:
the second half of every sentence is the first half again. Sentences have unlike lengths, padded,
masked for every stage, and weighed by their tokens. Try it:

    pip install 'stretto[run,hf]'
    stretto run dualpipe --set ranks=2 --set microbatches=8 \
        --model examples/hugging_face.py:MODEL --data examples/hugging_face.py:data --steps 60

For weights of your own give `CausalLM` the path of a folder in place of the configuration.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig  # pyright: ignore[reportMissingImports]

from stretto.runtime.hf import CausalLM

VOCABULARY, HALF, BATCH = 32, 8, 64
IGNORED = -100  # as a label: nothing is foretold there

MODEL = CausalLM(
    LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=2 * HALF,
        tie_word_embeddings=True,  # on two ranks; the runtime keeps them equal
        bos_token_id=None,
        eos_token_id=None,
    ),
    optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
)


def data(step: int) -> tuple[dict[str, Any], Tensor]:
    """Token numbers with their mask, and the labels."""
    draw = torch.Generator().manual_seed(step)
    tokens = torch.randint(VOCABULARY, (BATCH, 2 * HALF), generator=draw)
    mask, labels = torch.ones_like(tokens), tokens.clone()
    for row, half in enumerate(torch.randint(2, HALF + 1, (BATCH,), generator=draw).tolist()):
        tokens[row, half : 2 * half] = tokens[row, :half]
        mask[row, 2 * half :] = 0
        labels[row] = tokens[row]
        labels[row, :half] = labels[row, 2 * half :] = IGNORED
    return {"input_ids": tokens, "attention_mask": mask}, labels
