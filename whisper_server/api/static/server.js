// Requests to the server that this page came from. Addresses are relative: a proxy may put something before them.

const KEY = "whisper-key";

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Kept for the tab's session only.
export const key = {
  get value() { return sessionStorage.getItem(KEY) ?? ""; },
  set value(text) { sessionStorage.setItem(KEY, text); },
};

// Fetches, and throws a ServerError with the server's own message where the reply is none of the good ones.
export async function request(path, options = {}) {
  const headers = key.value ? { authorization: `Bearer ${key.value}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The server cannot be reached.");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new ServerError(response.status, body?.error?.message ?? `The server answered ${response.status}.`);
}

// Yields the JSON of a stream of Server-Sent Events; an error event is thrown.
export async function* events(response) {
  let rest = "";
  for await (const text of texts(response.body)) {
    const frames = (rest + text).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const data = frame.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (!data || data === "[DONE]") continue;
      const event = JSON.parse(data);
      if (event.error) throw new ServerError(500, event.error.message);
      yield event;
    }
  }
}

// Readable streams cannot be iterated in every browser.
async function* texts(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Transcribes a file; yields `transcript.text.segment`, `.delta` and `.done` events.
export async function* transcribe(file, { model, language, speakers, signal }) {
  const form = new FormData();
  form.append("file", file, file.name);
  form.append("model", model);
  if (language) form.append("language", language);
  form.append("response_format", "verbose_json");
  form.append("timestamp_granularities[]", "segment");
  form.append("timestamp_granularities[]", "word");
  if (speakers) form.append("diarize", "true");
  form.append("stream", "true");
  yield* events(await request("v1/audio/transcriptions", { method: "POST", body: form, signal }));
}

// Makes sure that a model is on the server's disk; yields how far its download is.
export async function* prepare(model) {
  yield* events(await request(`v1/models/${encodeURIComponent(model)}?stream=true`, { method: "POST" }));
}

export async function models() {
  const { data } = await (await request("v1/models")).json();
  return data;
}

// A key that may stand in a WebSocket's subprotocols, where only letters, digits and a few marks are allowed.
export async function sessionKey() {
  if (!key.value) return "";
  const reply = await request("v1/realtime/client_secrets", { method: "POST", body: "{}", headers: { "content-type": "application/json" } });
  return (await reply.json()).value;
}
