"""Consent: what ``consent=`` is given and may answer, and ready readers for the cookies of common consent tools."""

from adtarget_proxy.consent.answer import Consent, Request
from adtarget_proxy.consent.readers import READERS, cookiebot, didomi, google_consent_mode, onetrust, tcf

__all__ = ["READERS", "Consent", "Request", "cookiebot", "didomi", "google_consent_mode", "onetrust", "tcf"]
