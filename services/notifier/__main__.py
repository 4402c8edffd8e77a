"""`python -m services.notifier`."""

from services.chassis import run
from services.notifier.app import notifier
from services.notifier.settings import NotifierSettings

if __name__ == "__main__":
    run(NotifierSettings, notifier)
