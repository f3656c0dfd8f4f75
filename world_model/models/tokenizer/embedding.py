"""From label grids to the first feature map.

About 95 % of all voxels are free, so the embedded grid is one constant row with few exceptions: filling those in, and
summing their gradients, is several times cheaper than a dense look-up of every voxel. Where the first convolution is
1x1, the embedded grid need not exist at all: each occupied voxel adds one precomputed row to its cell.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from world_model.core.grid import FREE


def patch_index(voxel: Tensor, shape: tuple[int, int, int], patch: int) -> Tensor:
    """Position of voxels in the patch layout.

    Args:
        voxel: (N,) positions in flattened (B, X, Y, Z) grids.
        shape: (X, Y, Z).
        patch: edge of a bird's-eye patch in voxels.

    Returns:
        (N,) positions in flattened (B, X/patch, Y/patch, patch, patch, Z) grids.
    """
    if patch == 1:
        return voxel
    size_x, size_y, size_z = shape
    column, z = voxel // size_z, voxel % size_z
    y, rest = column % size_y, column // size_y
    x, batch = rest % size_x, rest // size_x
    cell = (batch * (size_x // patch) + x // patch) * (size_y // patch) + y // patch
    return ((cell * patch + x % patch) * patch + y % patch) * size_z + z


class _EmbedSparse(torch.autograd.Function):
    """Rows of a table for given classes at given positions, the table's free row everywhere else."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, classes: Tensor, position: Tensor, rows: int) -> Tensor:
        out = table[FREE].expand(rows, -1).contiguous()
        out.index_copy_(0, position, table.index_select(0, classes))
        ctx.save_for_backward(classes, position)
        ctx.table_shape = table.shape
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = grads
        classes, position = ctx.saved_tensors
        # Sums over 10^5 rows need more than half precision.
        dtype = torch.promote_types(grad.dtype, torch.float32)
        occupied = grad.index_select(0, position).to(dtype)
        table = torch.zeros(ctx.table_shape, device=grad.device, dtype=dtype)
        table.index_add_(0, classes, occupied)
        # The free row gets what is left of the sum over all voxels.
        table[FREE] += grad.view(-1, grad.shape[-1]).sum(0, dtype=dtype) - occupied.sum(0)
        return table.to(grad.dtype), None, None, None


def stem(labels: Tensor, table: Tensor, conv: nn.Conv2d, patch: int) -> Tensor:
    """Embed labels, fold heights and patches into channels, and apply the first convolution.

    Args:
        labels: (B, X, Y, Z) class ids.
        table: (K, e) class embeddings.
        conv: from patch*patch*Z*e channels, in the order (patch x, patch y, z, e).
        patch: edge of a bird's-eye patch in voxels.

    Returns:
        (B, C, X/patch, Y/patch).
    """
    batch, size_x, size_y, size_z = labels.shape
    flat = labels.reshape(-1)
    occupied = (flat != FREE).nonzero()[:, 0]
    classes = flat[occupied].long()
    position = patch_index(occupied, (size_x, size_y, size_z), patch)
    shape = (batch, size_x // patch, size_y // patch, -1)
    if conv.kernel_size == (1, 1):
        return _sum_rows(classes, position, table, conv, shape).permute(0, 3, 1, 2)
    if torch.is_autocast_enabled(labels.device.type):
        table = table.to(torch.get_autocast_dtype(labels.device.type))
    rows: Tensor = _EmbedSparse.apply(table, classes, position, flat.shape[0])  # type: ignore[no-untyped-call]  # torch
    x = rows.view(shape).permute(0, 3, 1, 2)
    # GroupNorm over a channels-last view loses precision in float32 where large regions are constant, and the
    # convolution would pass the layout on.
    out: Tensor = conv(x.contiguous() if x.dtype == torch.float32 else x)
    return out


def _sum_rows(classes: Tensor, position: Tensor, table: Tensor, conv: nn.Conv2d, shape: tuple[int, ...]) -> Tensor:
    """A 1x1 convolution of the embedded grid: the all-free response plus one row per occupied voxel."""
    slots = conv.in_channels // table.shape[1]
    weight = conv.weight.view(conv.out_channels, slots, table.shape[1])
    response = torch.einsum("ose,ke->sko", weight, table)
    background = response[:, FREE].sum(0)
    if conv.bias is not None:
        background = background + conv.bias
    difference = (response - response[:, FREE, None]).reshape(-1, conv.out_channels)
    rows = difference.index_select(0, (position % slots) * table.shape[0] + classes)
    cells = int(shape[0] * shape[1] * shape[2])
    total = torch.zeros(cells, conv.out_channels, dtype=rows.dtype, device=rows.device)
    return (total.index_add(0, position // slots, rows) + background).view(*shape[:3], conv.out_channels)
