"""Segment Anything models: fine-tuning on masks, and scoring by the masks that they predict."""

from cyqd.sam.data import SAMData
from cyqd.sam.layouts import ISIC2017, Camouflage, Folder, LeafDisease, Listed, Polyp
from cyqd.sam.module import SAMModule
from cyqd.sam.prompts import Prompt
from cyqd.sam.task import Segmentation
from cyqd.training.lora import LoRA

__all__ = [
    "ISIC2017",
    "Camouflage",
    "Folder",
    "LeafDisease",
    "Listed",
    "LoRA",
    "Polyp",
    "Prompt",
    "SAMData",
    "SAMModule",
    "Segmentation",
]
