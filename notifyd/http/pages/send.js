// The form: POST /v1/messages, and what is wrong beside the field that it is about.

const $ = (id) => document.getElementById(id);

const FIELDS = [
  ["to", "/toUserIds"],
  ["title", "/content/title"],
  ["body", "/content/body"],
  ["url", "/content/url"],
];

/** Fetch a token of the development server for this user. */
export async function tokenOf(user) {
  const answer = await fetch("/dev/token", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ user }),
  });
  if (!answer.ok) throw new Error((await problemOf(answer)).detail);
  return (await answer.json()).token;
}

async function problemOf(answer) {
  const said = await answer.json().catch(() => ({}));
  const detail = said.detail || said.title || `the server answered with HTTP ${answer.status}`;
  return { detail, errors: said.errors ?? [] };
}

export function setUpForm(user) {
  const form = $("form");
  $("to").value = user;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    $("submit").disabled = true;
    clear();
    try {
      const answer = await fetch("/v1/messages", {
        method: "POST",
        headers: { "Content-Type": "application/json", Authorization: `Bearer ${await tokenOf(user)}` },
        body: JSON.stringify(messageOf(user, new FormData(form))),
      });
      if (answer.ok) {
        const { id } = await answer.json();
        for (const name of ["title", "body", "url"]) $(name).value = "";
        const link = Object.assign(document.createElement("a"), { href: `/trace/${id}`, textContent: id });
        $("result").replaceChildren("Sent: ", link);
      } else {
        show(await problemOf(answer));
      }
    } catch (error) {
      show({ detail: error.message, errors: [] });
    } finally {
      $("submit").disabled = false;
    }
  });
}

function messageOf(user, form) {
  const text = (name) => String(form.get(name) ?? "").trim();
  const content = { version: 1.1 };
  for (const name of ["title", "body", "url"]) if (text(name)) content[name] = text(name);
  const toUserIds = text("to").split(",").map((id) => id.trim()).filter(Boolean);
  return { from: user, toUserIds, content };
}

function clear() {
  $("result").textContent = $("problem").textContent = "";
  for (const [name] of FIELDS) {
    $(name).removeAttribute("aria-invalid");
    $(`${name}-error`).textContent = "";
  }
}

function show({ detail, errors }) {
  const others = [];
  const wrong = new Map();
  for (const { pointer = "", detail: why } of errors) {
    const field = FIELDS.find(([, place]) => pointer === place || pointer.startsWith(`${place}/`));
    if (field) wrong.set(field[0], [...(wrong.get(field[0]) ?? []), why]);
    else others.push(pointer ? `${pointer}: ${why}` : why);
  }
  for (const [name, whys] of wrong) {
    $(name).setAttribute("aria-invalid", "true");
    $(`${name}-error`).textContent = whys.join("; ");
  }
  $("problem").textContent = [`Not sent: ${detail}`, ...others].join("; ");
  const first = FIELDS.find(([name]) => wrong.has(name));
  if (first) $(first[0]).focus();
}
