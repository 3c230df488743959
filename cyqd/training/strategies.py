"""Several processes without gradients."""

from __future__ import annotations

from lightning.pytorch.strategies import DDPStrategy


class EvaluationStrategy(DDPStrategy):
    """DDP's processes and collectives without its wrapper: evolution has no gradients to reduce.

    ``DistributedDataParallel`` would refuse a module without gradients, or allocate buckets the size of one
    with them.
    """

    def configure_ddp(self) -> None:
        """Leave the module as it is."""
