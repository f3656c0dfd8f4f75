"""BatchNorm whose statistics do not depend on how a batch is divided.

Statistics are taken over groups of fixed size (ghost batch normalisation, Hoffer et al., NeurIPS 2017), which lie whole
within a micro-batch. The published model was trained with plain BatchNorm at eight samples a device, that is
with groups of eight. Running statistics move by the mean over all groups of a step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.training.distributed import DistributedContext


class GroupBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over groups of ``group`` consecutive samples while training; as usual in evaluation."""

    group: int

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        if not self.training or batch == self.group:
            plain: Tensor = super().forward(x)
            return plain
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        groups = batch // self.group
        # Groups side by side as channels: one pass of the ordinary kernel normalises each by itself.
        size = x.shape[2:]
        apart = x.reshape(groups, self.group, channels, *size).transpose(0, 1).flatten(1, 2)
        mean, variance = self.running_mean.repeat(groups), self.running_var.repeat(groups)
        scale, shift = self.weight.repeat(groups), self.bias.repeat(groups)
        out = F.batch_norm(apart, mean, variance, scale, shift, True, self.momentum, self.eps)
        with torch.no_grad():
            self.running_mean.copy_(mean.view(groups, channels).mean(0))
            self.running_var.copy_(variance.view(groups, channels).mean(0))
            self.num_batches_tracked += 1
        return out.view(self.group, groups, channels, *size).transpose(0, 1).flatten(0, 1)


class GroupBatchNorm3d(GroupBatchNorm2d):
    """The same for BatchNorm3d."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 5:
            raise ValueError(f"expected (B, C, T, X, Y), got {tuple(input.shape)}")


GROUPED = {nn.BatchNorm2d: GroupBatchNorm2d, nn.BatchNorm3d: GroupBatchNorm3d}


def group_batch_norm(model: nn.Module, group: int) -> None:
    """Turn every BatchNorm of a model into one over groups of ``group`` samples; parameters and names stay."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d) and type(child) in GROUPED:
                grouped = GROUPED[type(child)](child.num_features, eps=child.eps, momentum=child.momentum)
                grouped.group = group
                grouped.weight, grouped.bias = child.weight, child.bias
                grouped.running_mean, grouped.running_var = child.running_mean, child.running_var
                grouped.num_batches_tracked = child.num_batches_tracked
                grouped.train(child.training)
                setattr(module, name, grouped)


class StepBuffers:
    """Buffers of a model over one step: every micro-batch starts from the same, and the mean of the results stays.

    Running statistics are linear in the statistics of a batch, so this equals one pass over the whole batch.

    Args:
        model: what is trained.
        count: micro-batches of the step in this process.
        context: this process among those that train.
    """

    def __init__(self, model: nn.Module, count: int, context: DistributedContext) -> None:
        self.context, self.count = context, count
        self.buffers = list(model.buffers()) if count * context.world_size > 1 else []
        self.before = [b.clone() for b in self.buffers]
        self.sums = [torch.zeros_like(b) for b in self.buffers]

    @torch.no_grad()
    def micro_batch_done(self) -> None:
        """Add up what a micro-batch has made of the buffers, and reset them."""
        for buffer, before, total in zip(self.buffers, self.before, self.sums, strict=True):
            total += buffer
            buffer.copy_(before)

    @torch.no_grad()
    def step_done(self) -> None:
        """Leave the mean over micro-batches and processes in the model."""
        for buffer, total in zip(self.buffers, self.sums, strict=True):
            if buffer.is_floating_point():
                buffer.copy_(self.context.mean(total / self.count))
            else:
                buffer.copy_(total // self.count)
