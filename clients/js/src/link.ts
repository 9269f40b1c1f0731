import type { Hello, MarkFrame, OkFrame, Options, ServerFrame } from "./types.js";

/** One connection. After `close` it calls nothing any more. */
export interface Link {
  send(frame: MarkFrame): void;
  close(): void;
}

export interface LinkEvents {
  onFrames(frames: ServerFrame[]): void;
  /** It is over: the close code of the protocol, or 0 where there is none. */
  onEnd(code: number, detail: string): void;
}

const READ = new Set(["msg", "welcome", "pos", "ok", "state", "drain", "error"]);

/** Statuses that are final as the close codes 4400 to 4429 are. */
const FINAL = new Set([400, 401, 403, 429]);
/** Servers take URLs of 8 KiB; without its offsets what came after the cursor comes again. */
const MAX_URL = 7_000;

function framesOf(text: string): ServerFrame[] {
  try {
    return [JSON.parse(text)].flat().filter((frame) => READ.has(frame?.op));
  } catch {
    return [];
  }
}

function schemeOf(url: URL, scheme: "ws" | "http"): string {
  return url.href.replace(/^(ws|http)/, scheme);
}

export function openSocket(url: URL, hello: Hello, options: Options, events: LinkEvents): Link {
  const Socket: Options["WebSocket"] = options.WebSocket ?? globalThis.WebSocket;
  if (!Socket) throw new Error("no WebSocket here: hand one over as the option `WebSocket`");
  const socket = new Socket(schemeOf(url, "ws"), ["notifyd.v1"]);
  socket.onopen = () => socket.send(JSON.stringify(hello));
  socket.onmessage = (event) => events.onFrames(framesOf(event.data));
  socket.onclose = (event) => events.onEnd(event.code, event.reason);
  socket.onerror = () => {}; // a close follows
  return {
    send: (frame) => socket.send(JSON.stringify(frame)),
    close() {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close(1000);
    },
  };
}

/** Server-sent events, read by `fetch`: an `EventSource` could not send the token. */
export function openEvents(url: URL, hello: Hello, options: Options, events: LinkEvents): Link {
  const fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
  const abort = new AbortController();
  const headers = { Authorization: `Bearer ${hello.token}` };
  const base = new URL(schemeOf(url, "http"));
  const stream = new URL(base);
  stream.pathname += "/sse";
  const query = stream.searchParams;
  query.set("ack", String(hello.ack));
  if (hello.cursor) query.set("cursor", hello.cursor);
  for (const at of hello.at ?? []) query.append("at", at);
  for (const version of hello.content) query.append("content", version);
  if (stream.href.length > MAX_URL) query.delete("at");

  let close = 0;
  let session: string | undefined;
  const end = (code: number, detail: string) => {
    if (abort.signal.aborted) return;
    abort.abort();
    events.onEnd(code, detail);
  };

  const read = async () => {
    const answer = await fetch(stream, { headers, signal: abort.signal, cache: "no-store" });
    if (!answer.ok || !answer.body) {
      const { status } = answer;
      return end(FINAL.has(status) ? 4000 + status : 0, `HTTP ${status}`);
    }
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    let text = "";
    let data = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return end(close, "the stream ended");
      const lines = (text + decoder.decode(value, { stream: true })).split(/\r?\n/);
      text = lines.pop()!;
      for (const line of lines) {
        if (line.startsWith("data:")) data += line.slice(5);
        if (line || !data) continue;
        const frames = framesOf(data);
        for (const frame of frames) {
          if (frame.op === "error") close = frame.close ?? 0;
          else if (frame.op === "welcome") session = frame.session;
        }
        events.onFrames(frames);
        data = "";
      }
    }
  };
  read().catch((error) => end(0, String(error)));

  const post = async ({ op, ids }: MarkFrame) => {
    for (let failures = 0; !abort.signal.aborted; failures++) {
      try {
        const answer = await fetch(new URL("ack", base), {
          method: "POST",
          headers: { ...headers, "Content-Type": "application/json" },
          body: JSON.stringify({ session, [op]: ids }),
          keepalive: true,
        });
        if (answer.ok) {
          const { ok, refused } = await answer.json();
          return events.onFrames([{ op: "ok", [op]: ok?.[op] ?? [], refused } as OkFrame]);
        }
        // What is wrong with these ids or this token does not mend by itself; the next connection tries again.
        if (answer.status < 500 && answer.status !== 429) return;
      } catch {
        // no network: again
      }
      await new Promise((wake) => setTimeout(wake, Math.random() * Math.min(30_000, 1000 * 2 ** failures)));
    }
  };
  return {
    send: (frame) => void post(frame),
    close: () => abort.abort(),
  };
}
