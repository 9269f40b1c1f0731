// The life of one message, `/trace/UUID`, read again until it is final. What it says is hostile: text, never markup.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const POLL_MS = 1000;
const RETRY_MS = 3000;
/** How a stage is coloured; its name stands beside, so that no colour has to be told apart. */
const KIND = {
  done: "good", acked: "good", sent: "good", seen: "good", read: "good",
  dead: "bad", failed: "bad",
  retry_wait: "warn", expired: "warn", skipped: "warn", unknown: "warn",
};
const IS_UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

const id = decodeURIComponent(location.pathname.split("/")[2] ?? "").trim();
let token = "";
let shown = "";
let states = new Map();

function element(name, more = {}, ...children) {
  const node = Object.assign(document.createElement(name), more);
  node.append(...children);
  return node;
}

/** Ask for the life; null where nobody has seen it. Throws an error with the server's words. */
async function read() {
  if (!token) token = await operatorToken();
  const answer = await fetch(`/v1/messages/${encodeURIComponent(id)}`, { headers: { Authorization: `Bearer ${token}` } });
  if (answer.ok) return answer.json();
  if (answer.status === 404) return null;
  if (answer.status === 401) token = "";
  throw new Error(await detailOf(answer));
}

async function operatorToken() {
  const answer = await fetch("/dev/token", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ user: "operator", operator: true }),
  });
  if (!answer.ok) throw new Error(await detailOf(answer));
  return (await answer.json()).token;
}

async function detailOf(answer) {
  const said = await answer.json().catch(() => ({}));
  return said.detail || said.title || `the server answered with HTTP ${answer.status}`;
}

/** Show what is known now, and come back for more until it is final. */
async function watch() {
  let wait = POLL_MS;
  try {
    const life = await read();
    tell("");
    if (life) {
      show(life);
      if (life.state === "done" || life.state === "dead") return status("Final", "open");
    }
    status(life ? "Watching" : "Waiting: nobody has seen this message yet", "waiting");
  } catch (error) {
    tell(`It cannot be read: ${error.message}`);
    status("Not connected", "closed");
    wait = RETRY_MS;
  }
  setTimeout(next, wait);
}

/** A tab in the background asks nothing; it goes on when it is looked at. */
function next() {
  if (document.visibilityState === "visible") return watch();
  document.addEventListener("visibilitychange", next, { once: true });
}

function status(text, kind) {
  if ($("watch").textContent === text) return;
  $("watch").className = `connection ${kind}`;
  $("watch").textContent = text;
}

function tell(text) {
  if ($("problem").textContent !== text) $("problem").textContent = text;
}

function show(life) {
  const text = JSON.stringify(life);
  if (text === shown) return;
  shown = text;
  const all = [...life.events, ...life.deliveries.flatMap(({ events }) => events)].map(({ at }) => Date.parse(at));
  const span = { begin: Math.min(...all), end: Math.max(...all) };
  const users = new Map();
  for (const one of life.deliveries) users.set(one.user, [...(users.get(one.user) ?? []), one]);
  $("life").replaceChildren(head(life, span), ...[...users].map(([user, ones], n) => person(user, ones, n, span)));
  $("envelope").hidden = !life.envelope;
  $("raw").textContent = JSON.stringify(life.envelope, null, 2);
  document.title = `${life.state}: ${titleOf(life)} · notifyd`;
  announce(life);
}

/** Say aloud what changed since the last look. */
function announce(life) {
  const now = new Map(life.deliveries.map((one) => [`${one.user} by ${one.channel}`, one.state]));
  now.set("the message", life.state);
  const news = [...now].filter(([name, state]) => states.size && states.get(name) !== state);
  if (news.length) $("news").textContent = news.map(([name, state]) => `${name}: ${state}`).join("; ");
  states = now;
}

function titleOf(life) {
  const title = life.envelope?.content?.title;
  return typeof title === "string" && title ? title : life.id;
}

function head(life, span) {
  const envelope = life.envelope;
  const facts = element("dl", { className: "facts" });
  const fact = (name, ...values) => facts.append(element("div", {}, element("dt", { textContent: name }), element("dd", {}, ...values)));
  fact("UUID", life.id);
  if (envelope) {
    fact("From", bdi(envelope.from));
    const to = Array.isArray(envelope.toUserIds) ? envelope.toUserIds : [];
    fact("To", bdi(to.slice(0, 5).join(", ") + (to.length > 5 ? ` and ${to.length - 5} more` : "")));
    if (envelope.content?.type) fact("Type", bdi(envelope.content.type));
    fact("Position", life.position);
    if (life.expires_at) fact("Expires", time(life.expires_at));
  }
  if (Number.isFinite(span.begin)) fact("Took", gap(span.end - span.begin).slice(1));
  const section = element("section", { className: "card" },
    element("div", { className: "head" }, element("h2", {}, bdi(titleOf(life))), chip(life.state)), facts);
  section.append(stages(life.events, null, "Stages of the message"));
  if (!envelope && !life.unknown.length) section.append(note("What it said is gone: all whom it was for were forgotten"));
  if (life.unknown.length) section.append(note(`Not stored yet, so not known: ${life.unknown.join(", ")}, and who else it is for`));
  return section;
}

function person(user, deliveries, number, span) {
  const heading = element("h2", { id: `user-${number}` }, bdi(user));
  const section = element("section", { className: "card" }, element("div", { className: "head" }, heading));
  section.setAttribute("aria-labelledby", heading.id);
  for (const one of deliveries) {
    const attempts = one.attempts > 1 ? element("span", { className: "hint", textContent: `${one.attempts} attempts` }) : "";
    section.append(element("div", { className: "delivery" },
      element("div", { className: "top" }, element("h3", {}, bdi(one.channel)), chip(one.state), attempts, lifeline(one, span)),
      stages(one.events, span.begin, `Stages of ${one.channel} to ${user}`),
      ...ends(one)));
  }
  return section;
}

function ends(one) {
  const found = [];
  if (one.waits_for) {
    const until = one.waits_until ? [", until ", time(one.waits_until)] : [];
    found.push(element("p", { className: "waits" }, `Waits for ${one.waits_for}`, ...until));
  }
  if (one.unknown.length) found.push(note(`Not known: ${one.unknown.join(", ")}`));
  return found;
}

function note(text) {
  return element("p", { className: "hint", textContent: text });
}

function stages(events, begin, name) {
  const list = element("ol", { className: "stages", ariaLabel: name });
  let before = begin;
  for (const event of events) {
    const at = Date.parse(event.at);
    const said = [event.attempt > 1 || event.stage === "retry_wait" ? `attempt ${event.attempt}` : "", event.reason, event.detail];
    const why = element("span", { className: "why" }, bdi(said.filter(Boolean).join(", ")));
    if (event.due_at) why.append(said.some(Boolean) ? ", due " : "due ", time(event.due_at));
    list.append(element("li", { className: KIND[event.stage] ?? "" },
      time(event.at),
      element("span", { className: "gap", textContent: before === null ? "" : gap(at - before) }),
      element("span", { className: "stage" }, bdi(event.stage)),
      element("span", { className: "pod" }, bdi(event.pod ?? (event.stage === "accepted" ? "Kafka" : ""))),
      why));
    before = at;
  }
  return list;
}

/** Draw the message's whole life from left to right, and on it what happened to this delivery. */
function lifeline({ events, waits_for: waits }, { begin, end }) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "lifeline");
  svg.setAttribute("aria-hidden", "true");
  const place = (at) => `${2 + (96 * (Date.parse(at) - begin)) / (end - begin || 1)}%`;
  const line = (from, to, kind) => draw(svg, "line", { x1: from, x2: to, y1: "50%", y2: "50%", class: kind });
  const last = events.length ? place(events.at(-1).at) : "2%";
  line("2%", last, "");
  if (waits) line(last, "98%", "ahead");
  for (const { at, stage } of events) draw(svg, "circle", { cx: place(at), cy: "50%", r: "5", class: KIND[stage] ?? "" });
  return svg;
}

function draw(parent, name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent.append(node);
}

function chip(state) {
  return element("span", { className: `chip ${KIND[state] ?? ""}`, textContent: state });
}

function bdi(text) {
  return element("bdi", { textContent: String(text ?? "").slice(0, 500) });
}

function time(text) {
  const date = new Date(text);
  const isToday = date.toDateString() === new Date().toDateString();
  const day = isToday ? {} : { year: "numeric", month: "2-digit", day: "2-digit" };
  const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23" };
  return element("time", { dateTime: text, title: text, textContent: date.toLocaleString([], { ...day, ...clock }) });
}

/** Write a span for people; clocks of pods may make it negative. */
function gap(ms) {
  const sign = ms < 0 ? "-" : "+";
  const s = Math.abs(ms) / 1000;
  if (s < 1) return `${sign}${Math.round(s * 1000)} ms`;
  if (s < 60) return `${sign}${s.toFixed(1)} s`;
  return s < 5400 ? `${sign}${Math.round(s / 60)} min` : `${sign}${(s / 3600).toFixed(1)} h`;
}

function lookUp(text) {
  const isId = IS_UUID.test(text);
  $("id").setAttribute("aria-invalid", String(!isId));
  $("id-error").textContent = isId ? "" : "This is no UUID; `notifyd send` prints one";
  if (!isId) $("id").focus();
  return isId;
}

$("look").addEventListener("submit", (event) => {
  event.preventDefault();
  const wanted = $("id").value.trim();
  if (lookUp(wanted)) location.assign(`/trace/${wanted}`);
});
$("id").value = id;
if (id && lookUp(id)) watch();
