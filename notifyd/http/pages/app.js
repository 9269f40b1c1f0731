// The inbox of one user: `?user=bob` is Bob's, in this tab or another.
import { Kept } from "./kept.js";
import { List } from "./list.js";
import { PushClient } from "./notifyd.js";
import { setUpForm, tokenOf } from "./send.js";

const $ = (id) => document.getElementById(id);
const user = (new URLSearchParams(location.search).get("user") ?? "").trim() || "alice";

const kept = new Kept(user);
const list = new List({
  onOpen: (entry) => mark([entry.id], "read"),
  onShow: (ids) => mark(ids, "seen"),
});

const client = new PushClient({
  url: "/v1/push",
  user,
  token: () => tokenOf(user),
  onMessage(message) {
    const entry = kept.add(message);
    if (!entry) return;
    list.add(entry, { isFresh: true });
    list.keepOnly(new Set(kept.all.map(({ id }) => id)));
    $("news").textContent = `New message from ${entry.from}: ${entry.title}`;
    count();
  },
  onState: take,
  onGap: () => tellGap(),
  onStatus: tellStatus,
});

/** Say what the user did, to the server and to the other tabs. */
function mark(ids, state) {
  const changed = take(ids, state);
  if (changed.length) client[state](changed);
}

/** Take in what the user did, here or elsewhere; returns the ids for which it is new. */
function take(ids, state) {
  const changed = ids.map((id) => kept.set(id, state)).filter(Boolean);
  for (const entry of changed) list.show(entry);
  if (changed.length) kept.save();
  count();
  return changed.map(({ id }) => id);
}

function count() {
  const unread = kept.unread.length;
  const words = unread === 1 ? "1 unread message" : `${unread} unread messages`;
  document.title = `${unread ? `(${unread}) ` : ""}Inbox of ${user} · notifyd`;
  $("badge").hidden = !unread;
  const number = Object.assign(document.createElement("span"), { ariaHidden: "true", textContent: unread });
  const spoken = Object.assign(document.createElement("span"), { className: "unseen", textContent: words });
  $("badge").replaceChildren(...(unread ? [number, " ", spoken] : []));
  $("read-all").disabled = !unread;
  $("empty").hidden = kept.all.length > 0;
}

function tellStatus({ state, detail, code }) {
  const words = {
    connecting: "Connecting …",
    open: "Connected",
    waiting: `Not connected: ${detail}`,
    closed: `Closed${code ? ` by the server (${detail}); load the page again once that is mended` : ""}`,
  };
  $("connection").className = `connection ${state}`;
  $("connection").textContent = words[state];
}

function tellGap() {
  const text = document.createElement("p");
  text.textContent = "Older messages may be missing here: the server cannot tell what this browser missed while it was away.";
  const button = Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: "Dismiss" });
  button.addEventListener("click", () => {
    $("gap").replaceChildren();
    $("messages-title").focus();
  });
  $("gap").replaceChildren(text, button);
}

$("user").textContent = user;
for (const name of new Set(["alice", "bob", user])) {
  const link = Object.assign(document.createElement("a"), { href: `?user=${encodeURIComponent(name)}`, textContent: name });
  if (name === user) link.ariaCurrent = "page";
  $("users").append(Object.assign(document.createElement("li"), {}));
  $("users").lastElementChild.append(link);
}
$("read-all").addEventListener("click", () => mark(kept.unread.map(({ id }) => id), "read"));
for (const entry of kept.all) list.add(entry);
setUpForm(user);
count();
