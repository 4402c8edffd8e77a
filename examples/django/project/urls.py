from django.contrib.auth.views import LoginView
from django.urls import path

from mailings import views

urlpatterns = [
    path("", views.home, name="home"),
    path("mailings", views.send, name="send"),
    path("jobs-token", views.jobs_token, name="jobs_token"),
    path("accounts/login/", LoginView.as_view(), name="login"),
]
