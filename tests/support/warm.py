"""What the parent of all ranks imports before it forks them; see `ranks.py`."""

import torch
import torch.distributed

from stretto.runtime.tensor_spec import output_of

torch.set_num_threads(1)
output_of(torch.nn.Linear(1, 1), torch.zeros(1, 1), (), torch.device("cpu"), "")
