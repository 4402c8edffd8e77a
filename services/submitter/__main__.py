"""Run the submitter."""

from ..runtime.service import run
from .app import submitter
from .settings import SubmitterSettings

if __name__ == "__main__":
    run(SubmitterSettings, submitter)
