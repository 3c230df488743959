"""Where model-written code runs: a sandbox, never the host."""

from cyqd.llm.environments.sandbox import Job, Limits, Outcome, Sandbox, SandboxUnavailable, shared_sandbox

__all__ = ["Job", "Limits", "Outcome", "Sandbox", "SandboxUnavailable", "shared_sandbox"]
