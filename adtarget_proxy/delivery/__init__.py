"""Sends what the outbox keeps."""

from adtarget_proxy.delivery.breaker import State
from adtarget_proxy.delivery.health import AccountHealth, Health
from adtarget_proxy.delivery.invite_call import Answer, Click, InviteCall
from adtarget_proxy.delivery.lifecycle import Delivery
from adtarget_proxy.delivery.timing import Timing

__all__ = ["AccountHealth", "Answer", "Click", "Delivery", "Health", "InviteCall", "State", "Timing"]
