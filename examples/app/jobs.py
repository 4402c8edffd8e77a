import asyncio

from msgspec import Struct

from headway import JobContext, job


class Letters(Struct):
    to: list[str]


async def send_letter(reader: str) -> None:
    await asyncio.sleep(1)  # your mail service


@job("letters")
async def letters(ctx: JobContext, payload: Letters) -> int:
    async for reader in ctx.track(payload.to, message="Sending"):
        await send_letter(reader)
    return len(payload.to)
