"""The landing site as uWSGI loads it: wrapped at import, which without lazy apps is in the master, before it forks."""

import json
import threading

import landing

from adtarget_proxy.wsgi import AdTargetMiddleware


def site(environ, start_response):
    if environ["PATH_INFO"] != "/delivery":
        return landing.bare_wsgi(environ, start_response)
    health = application.tracker.delivery.health()
    told = {
        "ok": health.ok,
        "running": health.running,
        "hindrance": health.hindrance,
        "left": application.flush(0.1),
        "threads": [thread.name for thread in threading.enumerate() if thread.name.startswith("adtarget-")],
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]


application = AdTargetMiddleware(site)
