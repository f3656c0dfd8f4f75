"""What two processes do in `test_distributed`: started by torchrun with the folder of the data and of the results."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import small_training as small
import torch
import torch.distributed as dist

from world_model import encode_tokens
from world_model.data.index import SceneIndex
from world_model.data.tokens import TokenCache
from world_model.training.distributed import DistributedContext, join, leave
from world_model.training.loop import Trainer


def main(data: Path, out: Path) -> None:
    """Train everything with half of each batch, be interrupted and go on."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    with join("cpu") as context:
        index = SceneIndex.load(data)
        cache = TokenCache.load(out / "tokens", index, "all")
        half = small.config_of(batch=2)
        small.train_tokenizer(index, out / "tokenizer", half, context)
        small.train_tokenizer(index, out / "sampled", small.config_of(batch=2, group=1), context, voxels=600)
        small.train_forecaster(index, cache, out / "forecaster", half, context)
        small.train_forecaster(
            index, cache, out / "faithful", small.config_of(batch=1, accumulate=2), context, faithful=True
        )
        encode_tokens.main(encode_tokens.Args(index=data, tokenizer=out / "model", out=out / "encoded", batch=1))
        interrupt_in_one_process(index, out / "interrupted", context)
        small.train_tokenizer(index, out / "resumed", half, context)
    leave()


def interrupt_in_one_process(index: SceneIndex, out: Path, context: DistributedContext) -> None:
    """The second process alone gets a signal in the second step: both save and stop."""
    whole = Trainer.step

    def step(self: Trainer, batches: object) -> dict[str, torch.Tensor]:
        if self.iteration == 1 and self.context.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(self, batches)  # type: ignore[arg-type]

    Trainer.step = step  # type: ignore[method-assign]
    try:
        small.train_tokenizer(index, out, small.config_of(batch=2), context)
    except SystemExit as stop:
        assert stop.code == 130
    else:
        raise AssertionError("the signal was lost")
    finally:
        Trainer.step = whole  # type: ignore[method-assign]
    if context.first:
        (out.parent / "resumed").mkdir()
        (out.parent / "resumed" / "last.pt").write_bytes((out / "last.pt").read_bytes())
    context.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
