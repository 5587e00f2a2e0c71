"""What the parent of all ranks imports before it forks them, and does once, for what torch imports
where it is first asked for; see `ranks.py`."""

import torch
import torch.distributed
import torch.distributed.fsdp
import torch.distributed.tensor.parallel

import stretto.compiler.driver
import stretto.runtime.executor
import stretto.runtime.train.launch  # noqa: F401

torch.set_num_threads(1)
module = torch.nn.Linear(1, 1)
module(torch.zeros(1, 1)).backward()
torch.optim.SGD(module.parameters(), lr=0.1).step()
