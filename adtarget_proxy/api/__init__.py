"""Speaks AdTarget: both surfaces behind one interface, results, and the two clients."""

from adtarget_proxy.api.client import AdTarget, AsyncAdTarget
from adtarget_proxy.api.results import (
    ConversionResult,
    FbpResult,
    InviteResult,
    LeadEventResult,
    LeadResult,
    Result,
    ValueResult,
    VisitResult,
)

__all__ = [
    "AdTarget",
    "AsyncAdTarget",
    "ConversionResult",
    "FbpResult",
    "InviteResult",
    "LeadEventResult",
    "LeadResult",
    "Result",
    "ValueResult",
    "VisitResult",
]
