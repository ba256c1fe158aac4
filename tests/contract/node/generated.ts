// A client whose types were made from the server's document; test_other_doors.py makes them, compiles and runs this.
//
//   node generated.js BASE_URL FILE

// @ts-expect-error  (the types of Node are not installed)
import { readFile } from "node:fs/promises";
import createClient from "openapi-fetch";
import type { paths } from "./schema.js";

declare const process: { argv: string[] };

const [, , baseUrl, file] = process.argv;
const audio = await readFile(file);
const client = createClient<paths>({ baseUrl });

const form = await client.POST("/v1/audio/transcriptions", {
  body: { file: "the bytes", language: "en" },
  bodySerializer: (body) => {
    const data = new FormData();
    for (const [name, value] of Object.entries(body ?? {})) data.append(name, String(value));
    data.set("file", new Blob([audio]), "a.flac");
    return data;
  },
});
const json = await client.POST("/v1/audio/transcriptions", { body: { audio: audio.toString("base64") } });
const models = await client.GET("/v1/models");
if (form.error || json.error || models.error) throw new Error(JSON.stringify([form.error, json.error, models.error]));

// Replies are texts with response_format text, srt and vtt.
const textOf = (reply: string | { text: string }) => (typeof reply === "string" ? reply : reply.text);

console.log(JSON.stringify({
  form: textOf(form.data),
  json: textOf(json.data),
  models: models.data.data.map((model) => model.id),
}));
