"""The live page. It is constant: what arrived comes as JSON and is put in as text nodes, so nothing in it can be markup."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from importlib.resources import files

_STYLE = files(__package__).joinpath("page.css").read_text("utf-8")
_SCRIPT = files(__package__).joinpath("page.js").read_text("utf-8")


def _source(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


CSP = (
    f"default-src 'none'; style-src {_source(_STYLE)}; script-src {_source(_SCRIPT)}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>AdTarget sandbox</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>AdTarget <em>sandbox</em></h1>
<p id="tools">
<button data-do="down">Take down</button><button data-do="heal">Heal</button><button data-do="reset">Reset</button>
</p>
</header>
<ul id="summary"></ul>
<main id="rows"></main>
<p id="empty">Nothing has arrived yet. Point your app at this address and open a page of it.</p>
<noscript>This page needs its script; the same as JSON is at /_sandbox/requests.</noscript>
<script>{_SCRIPT}</script>
</body>
</html>
"""
