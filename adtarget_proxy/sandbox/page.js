const MOST_ROWS = 300;
const LOOK_EVERY = 700; // milliseconds
const rows = document.getElementById("rows");
const summary = document.getElementById("summary");
let last = 0;
let since = null;

// The only way in for what arrived: as text.
function element(name, text, kind) {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function about(request) {
  const fields = request.fields;
  return String(fields.href || fields.eventType || fields.fbp || fields.tempId || "");
}

function row(request) {
  const head = document.createElement("summary");
  head.append(
    element("time", new Date(request.received_at * 1000).toLocaleTimeString()),
    element("b", request.endpoint),
    element("i", request.surface),
    element("code", request.delivered && request.status ? request.status : "cut"),
    element("s", request.outcome),
    element("span", about(request)),
  );
  const details = element("details", "", request.outcome);
  details.append(head);
  // Written when it is looked at: a load test brings thousands.
  details.addEventListener("toggle", () => details.append(element("pre", JSON.stringify(request, null, 2))), { once: true });
  return details;
}

function summarise(status) {
  const items = Object.entries(status.counts).map(([endpoint, count]) => element("li", `${count} ${endpoint}`));
  if (status.dropped) items.push(element("li", `the oldest ${status.dropped} no longer kept`));
  for (const [endpoint, faults] of Object.entries(status.faults)) {
    const what = Object.entries(faults).map(([name, value]) => `${name} ${value}`).join(", ");
    items.push(element("li", `${endpoint === "*" ? "all endpoints" : endpoint}: ${what || "healthy"}`, "fault"));
  }
  summary.replaceChildren(...items);
}

async function get(path) {
  return (await fetch(path)).json();
}

async function look() {
  try {
    const status = await get("/_sandbox/status");
    if (status.since !== since) {
      since = status.since;
      last = 0;
      rows.replaceChildren();
    }
    summarise(status);
    const news = await get(`/_sandbox/requests?after=${last}&newest=${MOST_ROWS}`);
    if (news.length) last = news.at(-1).number;
    rows.prepend(...news.reverse().map(row));
    while (rows.childElementCount > MOST_ROWS) rows.lastElementChild.remove();
  } catch {
    summary.replaceChildren(element("li", "The sandbox does not answer.", "fault"));
  }
}

const actions = {
  down: () => fetch("/_sandbox/faults", { method: "POST", body: JSON.stringify({ down: true }) }),
  heal: () => fetch("/_sandbox/faults", { method: "DELETE" }),
  reset: () => fetch("/_sandbox/events", { method: "DELETE" }),
};
document.getElementById("tools").addEventListener("click", (event) => actions[event.target.dataset.do]?.());

(async function live() {
  await look();
  setTimeout(live, LOOK_EVERY);
})();
