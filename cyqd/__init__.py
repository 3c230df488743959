"""cyqd: merge fine-tuned experts into one model by quality-diversity evolution (CycleQD)."""

__version__ = "0.1.0"
