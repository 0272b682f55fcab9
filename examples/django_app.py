"""Django in one file. Run: python examples/django_app.py runserver"""

import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.configure(
    DEBUG=True,
    SECRET_KEY="only for this example",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["adtarget_proxy.django.AdTargetMiddleware", "django.middleware.security.SecurityMiddleware"],
    ADTARGET={"INVITES": {"vip": "-1001234567890"}, "FALLBACK_URL": "https://t.me/your_channel"},
)


def landing(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f'<h1>Hello</h1><a href="{request.adtarget.invite_url("vip")}">Join</a>')


urlpatterns = [path("", landing)]
application = get_wsgi_application() if "runserver" not in sys.argv else None

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
