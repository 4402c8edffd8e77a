import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel, Field, StringConstraints

from headway.client import Client, RequestFailed, Unreachable
from jobs import Letters, letters

PASSWORDS = {"ada": "engine", "ben": "kite"}  # instead of your own login
SUBMITTER_URL = os.environ["SUBMITTER_URL"]
PAGE = Path(__file__).with_name("index.html")

client = Client(SUBMITTER_URL, os.environ.get("HEADWAY_API_KEY"), retry_for_s=5)  # a user waits

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Reader = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=254)]


class Mailing(BaseModel):
    title: Title
    to: Annotated[list[Reader], Field(min_length=1, max_length=100)]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with client:
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(RequestFailed)
@app.exception_handler(Unreachable)
async def explain(_request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, RequestFailed) and error.status in {403, 404, 413, 422}:  # the user's mistake
        return JSONResponse({"detail": str(error)}, error.status)
    return JSONResponse({"detail": "No answer. If the mailing is not on the list, please try again."}, 503)


def log_in(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> str:
    password = PASSWORDS.get(credentials.username, "")
    if not password or not secrets.compare_digest(password.encode(), credentials.password.encode()):
        raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})
    return f"user:{credentials.username}"


Owner = Annotated[str, Depends(log_in)]


@app.get("/")
async def home(_owner: Owner) -> FileResponse:
    return FileResponse(PAGE)


@app.post("/mailings", status_code=204)
async def send(owner: Owner, mailing: Mailing) -> None:
    await letters.submit(client, Letters(to=mailing.to), name=mailing.title, owner=owner)


@app.get("/jobs-token")
async def jobs_token(owner: Owner, response: Response) -> dict[str, str]:
    response.headers["Cache-Control"] = "no-store"
    issued = await client.list_token(owner=owner)
    return {"token": issued.token}


@app.get("/mailings/{job_id}")
async def share(owner: Owner, job_id: UUID) -> RedirectResponse:
    mine = await client.list_token(owner=owner, ttl_s=60)
    await client.get(job_id, token=mine.token)  # opens only jobs of this owner
    shared = await client.job_token(job_id, scope="watch", ttl_s=86400)
    return RedirectResponse(f"{SUBMITTER_URL}/jobs/{job_id}#{shared.token}", 303)
