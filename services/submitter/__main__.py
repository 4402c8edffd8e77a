"""`python -m services.submitter`."""

from services.runtime.service import run
from services.submitter.app import submitter
from services.submitter.settings import SubmitterSettings

if __name__ == "__main__":
    run(SubmitterSettings, submitter)
