import time
from contextlib import closing

from django.db import connection
from msgspec import Struct

from headway import JobContext, job
from mailings.models import Mailing


class Letters(Struct):
    mailing_id: int


def send_letter(reader: str) -> None:
    time.sleep(0.5)  # your mail service


@job("letters")
def letters(ctx: JobContext, payload: Letters) -> int:
    with closing(connection):  # each job has a thread, and each thread its own connection
        readers = Mailing.objects.get(pk=payload.mailing_id).readers.splitlines()
    for reader in ctx.track(readers, message="Sending"):
        send_letter(reader)
    return len(readers)
