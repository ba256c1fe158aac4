// Calls a server with unmodified JavaScript clients and prints, per call, what came of it.
//
//   node clients.mjs '{"baseURL": ..., "model": ..., "file": ..., "wav": ..., "calls": [...]}'
//
// Prints {"<call>": {"value": ...} | {"error": {...}}} as JSON; test_node_clients.py judges it.

import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { createGroq } from "@ai-sdk/groq";
import { createOpenAI } from "@ai-sdk/openai";
import { experimental_transcribe as transcribe, generateText, streamText } from "ai";
import Groq from "groq-sdk";
import OpenAI, { toFile } from "openai";

const { baseURL, model, file, wav, calls } = JSON.parse(process.argv[2]);

const requests = [];
const counted = (url, init) => {
  // The client also asks for "data:," to learn what this fetch can do.
  if (String(url).startsWith("http")) requests.push(url);
  return fetch(url, init);
};

const client = new OpenAI({ baseURL, apiKey: "any", fetch: counted });
const sdk = createOpenAI({ baseURL, apiKey: "any" });
const root = baseURL.replace(/\/v1$/, "");
const groq = new Groq({ baseURL: root, apiKey: "any" });
const groqSdk = createGroq({ baseURL: `${root}/openai/v1`, apiKey: "any" });

const create = (fields) => client.audio.transcriptions.create({ model, file: createReadStream(file), ...fields });
const collect = async (stream) => {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
};
const audioMessages = async () => [
  {
    role: "user",
    content: [{ type: "input_audio", input_audio: { data: await readFile(wav, "base64"), format: "wav" } }],
  },
];
const audioPrompt = async () => [
  { role: "user", content: [{ type: "file", mediaType: "audio/wav", data: await readFile(wav) }] },
];
const transcript = ({ text, segments, language, durationInSeconds }) => ({
  text,
  segments,
  language,
  durationInSeconds,
});

const known = {
  openai_json: () => create({}),
  openai_upload: async () => create({ file: await toFile(await readFile(file), "speech.flac") }),
  openai_text: () => create({ response_format: "text" }),
  openai_srt: () => create({ response_format: "srt" }),
  openai_vtt: () => create({ response_format: "vtt" }),
  openai_words: () =>
    create({ response_format: "verbose_json", timestamp_granularities: ["word", "segment"], temperature: 0 }),
  openai_fields: () => create({ language: "en", prompt: "", stream: false, keywords: ["house"] }),
  openai_models: async () => (await collect(await client.models.list())).map(({ id }) => id),
  openai_unknown_model: () => create({ model: "whisper-9" }),
  openai_bad_audio: async () => create({ file: await toFile(Buffer.from("This is not audio."), "a.wav") }),
  openai_stream: async () => collect(await create({ stream: true })),
  openai_stream_error: async () =>
    collect(await create({ stream: true, file: await toFile(Buffer.from("This is not audio."), "a.wav") })),
  openai_chat: async () => client.chat.completions.create({ model, messages: await audioMessages() }),
  openai_chat_stream: async () =>
    collect(await client.chat.completions.create({ model, messages: await audioMessages(), stream: true })),

  ai_transcribe: async () =>
    transcript(await transcribe({ model: sdk.transcription(model), audio: await readFile(file) })),
  ai_verbose: async () =>
    transcript(
      await transcribe({
        model: sdk.transcription(model),
        audio: await readFile(file),
        providerOptions: {
          openai: { responseFormat: "verbose_json", timestampGranularities: ["word", "segment"], language: "en" },
        },
      }),
    ),
  groq_json: () => groq.audio.transcriptions.create({ model, file: createReadStream(file) }),
  ai_groq: async () =>
    transcript(await transcribe({ model: groqSdk.transcription(model), audio: await readFile(file) })),
  ai_unknown_model: async () =>
    transcribe({ model: sdk.transcription("whisper-9"), audio: await readFile(file) }),
  ai_chat: async () => (await generateText({ model: sdk.chat(model), messages: await audioPrompt() })).text,
  ai_chat_stream: async () => {
    const { textStream } = streamText({ model: sdk.chat(model), messages: await audioPrompt() });
    return (await collect(textStream)).join("");
  },
};

const outcomes = {};
for (const name of calls) {
  requests.length = 0;
  try {
    outcomes[name] = { value: await known[name]() };
  } catch (error) {
    const { status, statusCode, code, param, type, message, requestID, responseBody } = error;
    outcomes[name] = {
      error: { kind: error.constructor.name, status: status ?? statusCode, code, param, type, message, requestID, responseBody },
    };
  }
  outcomes[name].requests = requests.length;
}
console.log(JSON.stringify(outcomes));
