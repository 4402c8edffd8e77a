from functools import partial

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.db import transaction
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from headway.client import RequestFailed, SyncClient, Unreachable
from mailings.jobs import Letters, letters
from mailings.models import Mailing

client = SyncClient(settings.HEADWAY_URL, settings.HEADWAY_API_KEY, retry_for_s=5)  # a user waits


class MailingForm(ModelForm):
    class Meta:
        model = Mailing
        fields = ("title", "readers")


def owner_of(user: User) -> str:
    return f"user:{user.pk}"


@login_required
def home(request: HttpRequest) -> HttpResponse:
    return show(request, MailingForm())


def show(request: HttpRequest, form: MailingForm, status: int = 200) -> HttpResponse:
    return render(request, "mailings/home.html", {"form": form, "headway_url": settings.HEADWAY_URL}, status=status)


@login_required
@require_POST
def send(request: HttpRequest) -> HttpResponse:
    form = MailingForm(request.POST, instance=Mailing(user=request.user))
    if not form.is_valid():
        return show(request, form, 422)
    try:
        with transaction.atomic():
            row = form.save()
            transaction.on_commit(partial(submit, row))
    except (RequestFailed, Unreachable):
        form.add_error(None, "The mailing is stored, and will be sent later.")
        return show(request, form, 503)
    return redirect("home")


def submit(row: Mailing) -> None:
    key = f"mailing {row.pk}"
    letters.submit(client, Letters(row.pk), name=row.title, owner=owner_of(row.user), idempotency_key=key)
    Mailing.objects.filter(pk=row.pk).update(submitted=True)


@never_cache
def jobs_token(request: HttpRequest) -> JsonResponse:
    if not request.user.is_authenticated:  # a script cannot follow a redirect to the login
        return JsonResponse({"detail": "Please log in."}, status=401)
    try:
        issued = client.list_token(owner=owner_of(request.user))
    except (RequestFailed, Unreachable):
        return JsonResponse({"detail": "Please try again."}, status=503)
    return JsonResponse({"token": issued.token})
