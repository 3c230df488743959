"""Language models: fine-tuning on chats, and scoring by what happens when the model's replies are run."""

from cyqd.llm.data import LLMData
from cyqd.llm.module import LLMModule
from cyqd.training.lora import LoRA

__all__ = ["LLMData", "LLMModule", "LoRA"]
