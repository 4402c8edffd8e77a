from functools import partial

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST

from headway.client import SyncClient
from mailings.jobs import Letters, letters
from mailings.models import Mailing

client = SyncClient(settings.HEADWAY_URL, settings.HEADWAY_API_KEY)


@login_required
def home(request: HttpRequest) -> HttpResponse:
    mailings = Mailing.objects.filter(user=request.user, token_expires_at__gt=timezone.now()).order_by("-pk")
    return render(request, "mailings/home.html", {"mailings": mailings, "headway_url": settings.HEADWAY_URL})


@login_required
@require_POST
def send(request: HttpRequest) -> HttpResponse:
    row = Mailing.objects.create(user=request.user, title=request.POST["title"], readers=request.POST["readers"])
    transaction.on_commit(partial(submit, row))
    return redirect("home")


def submit(row: Mailing) -> None:
    job = letters.submit(client, Letters(row.pk), idempotency_key=f"mailing {row.pk}")
    row.job_id, row.token, row.token_expires_at = job.id, job.token, job.expires_at
    row.save()
