"""`python -m services.notifier`."""

from services.notifier.app import notifier
from services.notifier.settings import NotifierSettings
from services.runtime.service import run

if __name__ == "__main__":
    run(NotifierSettings, notifier)
