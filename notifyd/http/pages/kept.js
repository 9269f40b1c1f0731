// The messages of one user as this browser has them, over reloads. All tabs of the user write the same.

const MAX_MESSAGES = 200;
/** What is kept of a text; the whole of it is shown until the page is loaded anew. */
const MAX_KEPT_CHARS = 4000;
/** States of messages that have not come yet: a state may overtake its message. */
const MAX_EARLY = 500;
const RANK = { new: 0, seen: 1, read: 2, archived: 3 };

export class Kept {
  #key;
  #entries = new Map();
  #early = new Map();

  constructor(user) {
    this.#key = `notifyd-inbox:${user}`;
    try {
      for (const entry of JSON.parse(localStorage.getItem(this.#key) ?? "[]")) this.#entries.set(entry.id, entry);
    } catch {
      // what cannot be read is no inbox
    }
  }

  /** The entries, the oldest first. */
  get all() {
    return [...this.#entries.values()];
  }

  get unread() {
    return this.all.filter(({ state }) => RANK[state] < RANK.read);
  }

  /** Keep a message, in the place of one that it replaces; returns its entry, or null where it is here already. */
  add(message) {
    const id = message.UUID;
    if (this.#entries.has(id)) return null;
    const { title, body, url, type, collapseKey } = message.content ?? {};
    const entry = {
      id,
      title: textOf(title) || textOf(type) || "Untitled",
      body: textOf(body),
      url: linkOf(url),
      from: textOf(message.from),
      time: textOf(message.createDateTime),
      state: this.#early.get(id) ?? "new",
      key: textOf(collapseKey),
    };
    for (const other of this.all) {
      if (entry.key && other.key === entry.key && other.from === entry.from) this.#entries.delete(other.id);
    }
    this.#entries.set(id, entry);
    this.#early.delete(id);
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size <= MAX_MESSAGES) break;
      this.#entries.delete(oldest);
    }
    this.save();
    return entry;
  }

  /** Note that a message is seen, read or archived. It never goes back. Returns its entry if that is new. */
  set(id, state) {
    const entry = this.#entries.get(id);
    const known = entry?.state ?? this.#early.get(id) ?? "new";
    if (!(RANK[state] > RANK[known])) return null;
    if (entry) entry.state = state;
    else this.#early.set(id, state);
    for (const oldest of this.#early.keys()) {
      if (this.#early.size <= MAX_EARLY) break;
      this.#early.delete(oldest);
    }
    return entry ?? null;
  }

  /** Write; where there is no room for all, the newest. */
  save() {
    const entries = this.all.map((entry) => ({ ...entry, body: entry.body.slice(0, MAX_KEPT_CHARS) }));
    for (let room = entries.length; room > 0; room = Math.floor(room / 2)) {
      try {
        return localStorage.setItem(this.#key, JSON.stringify(entries.slice(-room)));
      } catch {
        // no room for so many, or none allowed
      }
    }
  }
}

function textOf(value) {
  return typeof value === "string" ? value : "";
}

/** A link is what a person may follow: by http or https, and nothing else. */
function linkOf(value) {
  try {
    const url = new URL(textOf(value));
    return ["http:", "https:"].includes(url.protocol) ? url.href : "";
  } catch {
    return "";
  }
}
