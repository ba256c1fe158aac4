// Finishes a realtime turn with unmodified JavaScript clients and prints, per call, what came of it.
//
//   node --experimental-websocket realtime.mjs '{"baseURL": ..., "tlsURL": ..., "model": ..., "pcm": ..., "calls": [...]}'
//
// `pcm` is a file of 16-bit samples, mono, 24 kHz. Prints {"<call>": {"value": ...} | {"error": "..."}} as JSON;
// test_node_realtime.py judges it. The flag is for Node 20, which does not show WebSocket without it.

import { readFile } from "node:fs/promises";
import { createOpenAI } from "@ai-sdk/openai";
import { experimental_streamTranscribe as streamTranscribe } from "ai";
import OpenAI from "openai";
import { OpenAIRealtimeWebSocket } from "openai/realtime/websocket";
import { OpenAIRealtimeWS } from "openai/realtime/ws";

const { baseURL, tlsURL, apiKey, model, pcm, calls } = JSON.parse(process.argv[2]);
const PIECE_BYTES = 4_800;
const ITEM = "conversation.item.input_audio_transcription";

const sound = await readFile(pcm);
const pieces = [];
for (let first = 0; first < sound.length; first += PIECE_BYTES) pieces.push(sound.subarray(first, first + PIECE_BYTES));

// Says the clip, commits it and returns the types of all events, the deltas and the final one.
function turn(client) {
  return new Promise((resolve, reject) => {
    const seen = { types: [], shown: "" };
    client.on("error", reject);
    client.on("event", (event) => {
      seen.types.push(event.type);
      if (event.type === "session.created") {
        const input = { format: { type: "audio/pcm", rate: 24_000 }, transcription: { model }, turn_detection: null };
        client.send({ type: "session.update", session: { type: "transcription", audio: { input } } });
        for (const piece of pieces) client.send({ type: "input_audio_buffer.append", audio: piece.toString("base64") });
        client.send({ type: "input_audio_buffer.commit" });
      } else if (event.type === `${ITEM}.delta`) {
        seen.shown += event.delta;
      } else if (event.type === `${ITEM}.completed`) {
        client.close();
        resolve({ ...seen, transcript: event.transcript, usage: event.usage });
      }
    });
  });
}

const client = (key) => new OpenAI({ baseURL: tlsURL, apiKey: key });
const secret = async () => {
  const session = { type: "transcription", audio: { input: { transcription: { model } } } };
  return (await client(apiKey).realtime.clientSecrets.create({ session })).value;
};

async function streamed(name) {
  const { transcription } = createOpenAI({ baseURL, apiKey });
  const audio = new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(piece);
      controller.close();
    },
  });
  const result = streamTranscribe({
    model: transcription(name),
    audio,
    inputAudioFormat: { type: "audio/pcm", rate: 24_000 },
  });
  const types = [];
  for await (const { type } of result.fullStream) types.push(type);
  return { types, text: await result.text };
}

const known = {
  ws: () => turn(new OpenAIRealtimeWS({ model }, client(apiKey))),
  ws_intent: () => turn(new OpenAIRealtimeWS({ intent: "transcription" }, client(apiKey))),
  websocket: () => turn(new OpenAIRealtimeWebSocket({ model }, client(apiKey))),
  websocket_secret: async () => turn(new OpenAIRealtimeWebSocket({ model }, client(await secret()))),
  wrong_key: () => turn(new OpenAIRealtimeWS({ model }, client("wrong"))),
  ai_live: () => streamed("gpt-live-transcribe"),
  ai_whisper: () => streamed("gpt-realtime-whisper"),
};

const outcomes = {};
for (const name of calls) {
  try {
    outcomes[name] = { value: await known[name]() };
  } catch (error) {
    outcomes[name] = { error: String(error?.message ?? error) };
  }
}
console.log(JSON.stringify(outcomes));
process.exit();  // a client that has failed may still try again
