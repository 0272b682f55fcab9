"""FastAPI. Run: uvicorn --app-dir examples fastapi_app:app"""

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from adtarget_proxy import Settings
from adtarget_proxy.asgi import AdTargetMiddleware
from adtarget_proxy.fastapi import Tracking

app = FastAPI()
app.add_middleware(
    AdTargetMiddleware,
    settings=Settings(invites={"vip": "-1001234567890"}, fallback_url="https://t.me/your_channel"),
)


@app.get("/", response_class=HTMLResponse)
async def landing(tracking: Tracking) -> str:
    return f'<h1>Hello</h1><a href="{tracking.invite_url("vip")}">Join</a>'


@app.post("/paid")
async def paid(tracking: Tracking) -> dict[str, str]:
    key = tracking.conversion(
        telegram_user_id=1234567890,
        event_type="Purchase",
        value=97.0,
        currency="USD",
        channel_id="-1001234567890",
        idempotency_key="order_12345",
    )
    return {"reported_as": key}
