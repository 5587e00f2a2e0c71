"""What the parent of all ranks imports before it forks them; see `ranks.py`."""

import torch
import torch.distributed

from stretto.runtime.stage.infer_outputs import ExampleInput, infer_outputs

torch.set_num_threads(1)
infer_outputs(
    torch.nn.Linear(1, 1), ExampleInput(torch.zeros(1, 1), (), torch.device("cpu")), "warm-up"
)
