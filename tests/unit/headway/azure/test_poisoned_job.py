"""Poison messages, grouped by job."""

from __future__ import annotations

from uuid import UUID

from headway.azure.job_queue import PeekedMessage
from headway.azure.poisoned_job import PoisonMessage, group_by_job
from headway.contracts import NULL, Timestamp
from headway.message_codec import decode_message, message_json

JOB_ID = UUID("b1f6a6a0-7b7e-4c7f-9d0a-3c1c5a0e6f11")


def test_messages_are_grouped_by_job() -> None:
    """The latest message of a job is the readable one of the highest generation."""
    other_id = UUID(int=1)
    generations = [f'{{"id": "{JOB_ID}", "generation": {generation}}}' for generation in (1, 4, 3)]
    texts = [f'{{"id": "{JOB_ID}", "kind": 1}}', f'"{other_id}"', *generations, "nonsense"]
    messages = [PeekedMessage(f"m{n}", text, Timestamp(n), Timestamp(n)) for n, text in enumerate(texts)]
    jobs = group_by_job(map(PoisonMessage.read, messages))
    assert [(job.id, len(job.messages)) for job in jobs] == [(str(other_id), 1), (str(JOB_ID), 4), ("m5", 1)]
    job = jobs[1]
    assert all(job.matches(text) for text in (str(JOB_ID), str(JOB_ID).upper(), "m0", "m4"))
    assert not any(job.matches(text) for text in (str(other_id), "m5", ""))
    redriven = decode_message(job.redriven_text(Timestamp(99)))
    assert (redriven.generation, redriven.submitted_at, redriven.expires_at) == (5, Timestamp(3), Timestamp(99))


def test_a_redriven_message_keeps_what_it_does_not_replace() -> None:
    """All attempts are available again at once, without progress; fields of newer versions stay byte for byte."""
    others = r'"payload":{"n":1.50},"checkpoint":[2],"labels":{"name":"R\u00e9sum\u00e9"}'
    text = (
        f'{{"id":"{JOB_ID}","releases":22,"drains":21,"progress":{{"current":4}},"progress_attempt":1,{others},'
        '"submitted_at":"2026-01-01T00:00:00.000Z","due_at":"2026-01-02T00:00:00.000Z"}'
    )
    (job,) = group_by_job([PoisonMessage.read(PeekedMessage("m1", text, Timestamp(0), Timestamp(0)))])
    redriven = job.redriven_text(Timestamp(99))
    assert others in message_json(redriven).decode()
    message = decode_message(redriven)
    assert (message.generation, message.releases, message.drains) == (1, 0, 0)
    assert (message.progress, message.progress_attempt) == (None, None)
    assert (message.submitted_at, message.due_at) == (Timestamp.parse("2026-01-01T00:00:00.000Z"), None)


def test_a_redrive_may_need_a_later_generation_and_drop_the_checkpoint() -> None:
    """The record of the job may have a later generation than its poison message."""
    text = f'{{"id":"{JOB_ID}","generation":2,"checkpoint":[2]}}'
    (job,) = group_by_job([PoisonMessage.read(PeekedMessage("m1", text, Timestamp(0), Timestamp(0)))])
    for min_generation, generation in ((0, 3), (3, 3), (7, 7)):
        redriven = decode_message(job.redriven_text(Timestamp(99), min_generation=min_generation))
        assert (redriven.generation, bytes(redriven.checkpoint)) == (generation, b"[2]")
    redriven = decode_message(job.redriven_text(Timestamp(99), from_start=True))
    assert (redriven.generation, redriven.checkpoint) == (3, NULL)


def test_the_messages_of_earlier_generations() -> None:
    """A message that cannot be read has no generation."""
    texts = [f'{{"id":"{JOB_ID}","generation":{generation}}}' for generation in (1, 2, 3)]
    texts.append(f'{{"id":"{JOB_ID}","kind":1}}')
    messages = [PeekedMessage(f"m{n}", text, Timestamp(n), Timestamp(n)) for n, text in enumerate(texts)]
    (job,) = group_by_job(map(PoisonMessage.read, messages))
    older = job.older_than(3)
    assert older is not None
    assert [message.received.id for message in older.messages] == ["m1", "m0"]
    assert job.older_than(1) is None
