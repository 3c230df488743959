"""Tasks: problems, and the environments that answer and judge a model's replies."""

from cyqd.llm.tasks.agentbench_os import AgentBenchOS
from cyqd.llm.tasks.base import SandboxTask, Task, Turn
from cyqd.llm.tasks.coding import Coding
from cyqd.llm.tasks.coding_benchmark import CodingBenchmark
from cyqd.llm.tasks.database import Database
from cyqd.llm.tasks.dbbench import DBBench
from cyqd.llm.tasks.operating_system import OperatingSystem
from cyqd.llm.tasks.problems import Message, Problem

__all__ = [
    "AgentBenchOS",
    "Coding",
    "CodingBenchmark",
    "DBBench",
    "Database",
    "Message",
    "OperatingSystem",
    "Problem",
    "SandboxTask",
    "Task",
    "Turn",
]
