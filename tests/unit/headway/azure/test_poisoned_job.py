"""Poison messages, grouped by job."""

from __future__ import annotations

from uuid import UUID

from headway.azure.job_queue import PeekedMessage
from headway.azure.poisoned_job import PoisonMessage, group_by_job
from headway.contracts import Timestamp

JOB_ID = UUID("b1f6a6a0-7b7e-4c7f-9d0a-3c1c5a0e6f11")


def test_messages_are_grouped_by_job() -> None:
    """The latest message of a job is the readable one of the highest generation."""
    other_id = UUID(int=1)
    generations = [f'{{"id": "{JOB_ID}", "generation": {generation}}}' for generation in (1, 4, 3)]
    texts = [f'{{"id": "{JOB_ID}", "kind": 1}}', f'"{other_id}"', *generations, "nonsense"]
    messages = [PeekedMessage(f"m{number}", text, Timestamp(number * 1000)) for number, text in enumerate(texts)]
    jobs = group_by_job(map(PoisonMessage.read, messages))
    assert [(job.id, len(job.messages)) for job in jobs] == [(str(other_id), 1), (str(JOB_ID), 4), ("m5", 1)]
    job = jobs[1]
    assert all(job.matches(text) for text in (str(JOB_ID), str(JOB_ID).upper(), "m0", "m4"))
    assert not any(job.matches(text) for text in (str(other_id), "m5", ""))
    redriven = job.redriven_message(Timestamp(99))
    assert (redriven.generation, redriven.submitted_at, redriven.expires_at) == (5, Timestamp(3000), Timestamp(99))
