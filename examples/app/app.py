import os
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel

from headway.client import Client
from jobs import Letters, letters

PASSWORDS = {"ada": "engine", "ben": "kite"}  # instead of your own login
SUBMITTER_URL = os.environ["SUBMITTER_URL"]
PAGE = Path(__file__).with_name("index.html")

client = Client(SUBMITTER_URL, os.environ.get("HEADWAY_API_KEY"))
database = sqlite3.connect("app.db", isolation_level=None)
database.execute(
    """CREATE TABLE IF NOT EXISTS mailings (
        job_id TEXT PRIMARY KEY, user TEXT NOT NULL, title TEXT NOT NULL, token TEXT NOT NULL, expires_at REAL NOT NULL
    )"""
)


class NewMailing(BaseModel):
    title: str
    to: list[str]


class Mailing(BaseModel):
    job_id: UUID
    title: str
    token: str


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with client:
        yield


app = FastAPI(lifespan=lifespan)


def log_in(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> str:
    password = PASSWORDS.get(credentials.username, "")
    if not password or not secrets.compare_digest(password.encode(), credentials.password.encode()):
        raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})
    return credentials.username


User = Annotated[str, Depends(log_in)]


@app.get("/")
async def home(_user: User) -> FileResponse:
    return FileResponse(PAGE)


@app.post("/mailings")
async def send(user: User, new: NewMailing) -> Mailing:
    job = await letters.submit(client, Letters(to=new.to))
    row = (str(job.id), user, new.title, job.token, job.expires_at.timestamp())
    database.execute("INSERT INTO mailings VALUES (?, ?, ?, ?, ?)", row)
    return Mailing(job_id=job.id, title=new.title, token=job.token)


@app.get("/mailings")
async def mailings(user: User) -> list[Mailing]:
    database.execute("DELETE FROM mailings WHERE expires_at < ?", [time.time()])
    rows = database.execute("SELECT job_id, title, token FROM mailings WHERE user = ?", [user])
    return [Mailing(job_id=job_id, title=title, token=token) for job_id, title, token in rows]


@app.post("/mailings/{job_id}/share")
async def share(user: User, job_id: UUID) -> str:
    row = database.execute("SELECT token FROM mailings WHERE job_id = ? AND user = ?", [str(job_id), user]).fetchone()
    if row is None:
        raise HTTPException(404)
    shared = await client.share(f"{SUBMITTER_URL}/jobs/{job_id}", token=row[0])
    return shared.link
