"""Flask. Run: flask --app examples/flask_app.py run"""

from flask import Flask, request

from adtarget_proxy.flask import AdTargetFlask

app = Flask(__name__)
app.config["ADTARGET"] = {"invites": {"vip": "-1001234567890"}, "fallback_url": "https://t.me/your_channel"}
AdTargetFlask(app)


@app.get("/")
def landing() -> str:
    return f'<h1>Hello</h1><a href="{request.environ["adtarget"].invite_url("vip")}">Join</a>'
