"""What the parent of all ranks imports before it forks them; see `ranks.py`."""

import torch
import torch.distributed
import torch.distributed.fsdp
import torch.distributed.tensor.parallel

import stretto.runtime.executor  # noqa: F401

torch.set_num_threads(1)
torch.nn.Linear(1, 1)(torch.zeros(1, 1)).backward()
