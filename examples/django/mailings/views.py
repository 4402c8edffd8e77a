from functools import partial

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from headway.client import SyncClient
from mailings.jobs import Letters, letters
from mailings.models import Mailing

client = SyncClient(settings.HEADWAY_URL, settings.HEADWAY_API_KEY)


def owner_of(user: User) -> str:
    return f"user:{user.pk}"


@login_required
def home(request: HttpRequest) -> HttpResponse:
    return render(request, "mailings/home.html", {"headway_url": settings.HEADWAY_URL})


@login_required
@require_POST
def send(request: HttpRequest) -> HttpResponse:
    row = Mailing.objects.create(user=request.user, title=request.POST["title"], readers=request.POST["readers"])
    transaction.on_commit(partial(submit, row))
    return redirect("home")


def submit(row: Mailing) -> None:
    key = f"mailing {row.pk}"
    letters.submit(client, Letters(row.pk), name=row.title, owner=owner_of(row.user), idempotency_key=key)


@login_required
@never_cache
def jobs_token(request: HttpRequest) -> JsonResponse:
    issued = client.list_token(owner=owner_of(request.user))
    return JsonResponse({"token": issued.token})
