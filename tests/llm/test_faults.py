"""Environments that really break during an evolution: a server and containers are killed, no generation is lost."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml

from cyqd.__main__ import main
from cyqd.llm.environments.containers import docker_client
from cyqd.llm.tasks import AgentBenchOS, DBBench, Problem
from cyqd.llm.tasks.live import Session

from .agent_image import agent_image
from .conftest import make_llama
from .sql_servers import Server, own_server

TABLE = {"table_name": "pets", "table_info": {"columns": [{"name": "name"}], "rows": [["bo"], ["cy"]]}}
CHANGE = {
    "description": "Remove bo.",
    "add_description": "pets(name)",
    "type": ["DELETE"],
    "label": ["DELETE FROM pets WHERE name = 'bo'"],
    "answer_md5": "[('that of another table',)]",
    "table": TABLE,
}
STATE = {
    "description": "Leave /tmp as it is.",
    "create": {"local": "default"},
    "evaluation": {"check": {"code": "test ! -e /tmp/b"}},
}


class Breaking:
    """Breaks the environment of every seventh dialogue as soon as it stands, a few times in all."""

    opened: ClassVar[int]
    broken: ClassVar[list[str]]

    def open(self, problem: Problem) -> Session:
        session = super().open(problem)  # type: ignore[misc]
        kind = type(self)
        with LOCK:
            kind.opened += 1
            if kind.opened % 7 == 3 and len(kind.broken) < 3:
                kind.broken.append(f"{self.name}/{problem.id}")  # type: ignore[attr-defined]
                kind.destroy(session)  # type: ignore[attr-defined]
        return session


LOCK = threading.Lock()


class BreakingDatabase(Breaking, DBBench):
    server: ClassVar[Server]
    restarts: ClassVar[list[threading.Timer]] = []

    @classmethod
    def destroy(cls, session: Session) -> None:
        cls.server.kill()
        cls.restarts.append(threading.Timer(0.5, cls.server.start))
        cls.restarts[-1].start()


class BreakingContainers(Breaking, AgentBenchOS):
    @classmethod
    def destroy(cls, session: Session) -> None:
        docker_client().api.kill(session.container.name)  # type: ignore[attr-defined]


def named(results: dict, kind: str) -> set[str]:
    found = set(results["evolution"][kind])
    return found.union(*(row.get(kind, {}) for row in results["rows"]))


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.mysql
def test_a_server_and_containers_that_are_killed_cost_retries_and_nothing_else(tmp_path: Path) -> None:
    agent_image()
    models = []
    for seed, name in enumerate(("base", "database", "os")):
        folder = make_llama(tmp_path / name, seed=seed)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 16384}))
        models.append(str(folder))
    (tmp_path / "db.jsonl").write_text("".join(json.dumps(CHANGE) + "\n" for _ in range(8)))
    (tmp_path / "os.json").write_text(json.dumps([STATE] * 8))
    for kind in (BreakingDatabase, BreakingContainers):
        kind.opened, kind.broken = 0, []
    with own_server() as server:
        BreakingDatabase.server = server
        tasks = [
            {"class_path": f"{__name__}.BreakingDatabase",
             "init_args": {"problems": str(tmp_path / "db.jsonl"), "engine": server.url}},
            {"class_path": f"{__name__}.BreakingContainers", "init_args": {"problems": str(tmp_path / "os.json")}},
        ]  # fmt: skip
        config = {
            "threads": torch.get_num_threads(),
            "model": {"class_path": "cyqd.llm.LLMModule", "init_args": {"base": models[0], "max_new_tokens": 4}},
            "data": {"class_path": "cyqd.llm.LLMData", "init_args": {"tasks": tasks, "eval_batch_size": 2}},
            "experts": dict(zip(("database", "os"), models[1:], strict=True)),
            "strategy": {"class_path": "cyqd.evolution.CycleQD", "init_args": {"generations": 2}},
            "run": str(tmp_path / "run"),
            "trainer": {"accelerator": "cpu", "devices": 1},
        }
        (tmp_path / "evolve.yaml").write_text(yaml.safe_dump(config))
        main(["evolve", "--config", str(tmp_path / "evolve.yaml")])
        for restart in BreakingDatabase.restarts:
            restart.join()
        results = json.loads((tmp_path / "run" / "results.json").read_text())
        history = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
        assert len(history) == 4
        assert len(BreakingDatabase.broken) == len(BreakingContainers.broken) == 3
        assert named(results, "faults") == set()
        assert named(results, "retries") >= set(BreakingContainers.broken)
        # A server is waited for; only what it was doing when it died is played again.
        for line in history:
            scores = json.loads(line)["scores"]
            assert scores == {"database": 0.0, "os": 1.0}, (
                "chatter changes nothing, neither what it should nor what it should not"
            )
