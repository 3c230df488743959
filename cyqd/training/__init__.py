"""The Lightning side: one Trainer run hosts a whole evolution."""

from cyqd.training.metrics import MeanScore, Score
from cyqd.training.module import EvolvableModule, Picture, Transcript
from cyqd.training.regulariser import SimilarityRegulariser
from cyqd.training.sharding import ShardedBatchSampler

__all__ = [
    "EvolvableModule",
    "MeanScore",
    "Picture",
    "Score",
    "ShardedBatchSampler",
    "SimilarityRegulariser",
    "Transcript",
]
