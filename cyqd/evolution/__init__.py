"""The method: quality-diversity evolution of merged models. Knows neither Lightning, nor W&B, nor a domain."""

from cyqd.evolution.archive import Archive, Elite
from cyqd.evolution.baselines import PlainQD, TaskVectorAverage, TSVMerge
from cyqd.evolution.cma_me import CMAME
from cyqd.evolution.cycleqd import CycleQD
from cyqd.evolution.genome import CompactGenome, DenseGenome, Genome, materialise
from cyqd.evolution.optimisers import CMAES, NSGA2, PolicyGradient
from cyqd.evolution.space import ExpertSpace
from cyqd.evolution.spectrum import similarity
from cyqd.evolution.store import GenomeStore
from cyqd.evolution.strategy import Candidate, Roster, Strategy

__all__ = [
    "CMAES",
    "CMAME",
    "NSGA2",
    "Archive",
    "Candidate",
    "CompactGenome",
    "CycleQD",
    "DenseGenome",
    "Elite",
    "ExpertSpace",
    "Genome",
    "GenomeStore",
    "PlainQD",
    "PolicyGradient",
    "Roster",
    "Strategy",
    "TSVMerge",
    "TaskVectorAverage",
    "materialise",
    "similarity",
]
