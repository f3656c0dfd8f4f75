"""Batches in which every sample has a fixed slot, so that its result depends on nothing but the sample.

A matrix product takes its kernel by the shape it is given, and treats the rows of one product differently: the same
window forecast alone, as one of eight, or as the third instead of the first of eight can differ in the last bits, and a
near-tied voxel then changes its class. So samples go through the models in batches of always the same size that never
mix scenes, and sample number n of a scene always stands in slot n % size; slots whose samples are not asked for are
filled with repetitions of one that is. How many samples are asked for at once, which of them an earlier run has done,
and how many processes share the scenes then changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def fixed_slots(numbers: Sequence[int], size: int) -> Iterator[tuple[list[int], list[int]]]:
    """Batches for the samples of one scene.

    Args:
        numbers: (N) the samples' numbers in their scene, ascending.
        size: slots of a batch.

    Yields:
        For each slot the sample that stands in it, counted along ``numbers``; and the slots that are no repetition.
        The results of all batches at these slots, one batch after the other, are those of the N samples in order.
    """
    batches: dict[int, dict[int, int]] = {}
    for row, number in enumerate(numbers):
        batches.setdefault(number // size, {})[number % size] = row
    for slots in batches.values():
        filler = next(iter(slots.values()))
        yield [slots.get(slot, filler) for slot in range(size)], list(slots)
