"""Language models: fine-tuning on chats, and scoring by what happens when the model's replies are run."""

from cyqd.llm.data import LLMData
from cyqd.llm.lora import LoRA
from cyqd.llm.module import LLMModule

__all__ = ["LLMData", "LLMModule", "LoRA"]
