// The list as it is seen. What a message says is hostile input: it becomes text, never markup.

const $ = (id) => document.getElementById(id);

function element(name, more = {}, ...children) {
  const node = Object.assign(document.createElement(name), more);
  node.append(...children);
  return node;
}

function timeOf(text) {
  const date = new Date(text);
  const isDate = !Number.isNaN(date.getTime());
  return element("time", {
    dateTime: isDate ? date.toISOString() : "",
    textContent: isDate ? date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : text.slice(0, 40),
  });
}

export class List {
  #lines = new Map();
  #onOpen;
  #observer;

  /** `onOpen(entry)` when a person opens a message; `onShow(ids)` when some came before their eyes. */
  constructor({ onOpen, onShow }) {
    this.#onOpen = onOpen;
    const shown = new Set();
    const tell = () => {
      if (document.visibilityState !== "visible" || !shown.size) return;
      onShow([...shown]);
      shown.clear();
    };
    document.addEventListener("visibilitychange", tell);
    this.#observer = new IntersectionObserver(
      (changes) => {
        for (const { isIntersecting, target } of changes) {
          if (!isIntersecting) continue;
          shown.add(target.dataset.id);
          this.#observer.unobserve(target);
        }
        tell();
      },
      { threshold: 0.5 },
    );
  }

  /** Put an entry at the top. */
  add(entry, { isFresh = false } = {}) {
    const { id, title, body, url, from, time } = entry;
    const state = element("span", { className: "unseen" });
    const line = element(
      "button",
      { type: "button", className: "line", ariaExpanded: "false" },
      element("span", { className: "mark" }),
      element("span", { className: "title" }, state, element("bdi", { textContent: title })),
      timeOf(time),
      element("span", { className: "preview", dir: "auto", textContent: body.slice(0, 200) || from }),
    );
    const whole = element("div", { className: "whole", id: `whole-${id}`, hidden: true });
    if (body) whole.append(element("p", { className: "text", dir: "auto", textContent: body }));
    if (url) {
      const link = element("a", { href: url, textContent: url, target: "_blank", rel: "noopener noreferrer" });
      whole.append(element("p", {}, link));
    }
    const sender = element("bdi", { textContent: from });
    whole.append(element("p", { className: "facts" }, "From ", sender, ` · ${id}`));
    line.setAttribute("aria-controls", whole.id);
    line.addEventListener("click", () => {
      whole.hidden = !whole.hidden;
      line.ariaExpanded = String(!whole.hidden);
      if (!whole.hidden) this.#onOpen(entry);
    });
    const item = element("li", { className: isFresh ? "fresh" : "" }, line, whole);
    item.dataset.id = id;
    this.#lines.set(id, { item, state });
    $("list").prepend(item);
    this.show(entry);
    if (entry.state === "new") this.#observer.observe(item);
  }

  /** Show what is known of an entry by now. */
  show({ id, state }) {
    const line = this.#lines.get(id);
    if (!line) return;
    const isUnread = ["new", "seen"].includes(state);
    line.item.classList.toggle("unread", isUnread);
    line.state.textContent = isUnread ? "Unread: " : "";
  }

  /** Let go of what is not kept any more. */
  keepOnly(ids) {
    for (const [id, { item }] of this.#lines) {
      if (ids.has(id)) continue;
      this.#observer.unobserve(item);
      item.remove();
      this.#lines.delete(id);
    }
  }
}
