"""Small tensors gain nothing from threads; on a busy machine threads that wait for each other cost much."""

import torch

torch.set_num_threads(1)
