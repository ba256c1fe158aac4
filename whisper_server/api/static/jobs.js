// The jobs of the server, from all clients: how far they are, their texts, their end.

import { shortClock } from "./formats.js";
import { request } from "./server.js";

const EVERY_MS = 5000;
const template = document.querySelector("#job");
const ENDED = new Set(["completed", "failed", "expired", "cancelled"]);
const SHOWN = { txt: "text", srt: "srt", vtt: "vtt", json: "verbose_json" };
const rows = new Map(); // id -> row

// Shows the jobs there are, and looks again as long as one is unfinished; returns when none is.
export async function showJobs(format) {
  for (;;) {
    const { data } = await (await request("v1/jobs?limit=100")).json();
    const known = new Set(data.map(({ id }) => id));
    for (const [id, row] of rows) {
      if (!known.has(id)) {
        row.remove();
        rows.delete(id);
      }
    }
    const list = document.querySelector("#jobs-list");
    for (const job of data) {
      if (!rows.has(job.id)) rows.set(job.id, made(job, format));
      list.append(rows.get(job.id));
      tell(rows.get(job.id), job);
    }
    document.querySelector("#jobs").hidden = !data.length;
    if (data.every(({ status }) => ENDED.has(status))) return;
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

function made({ id, created_at, model }, format) {
  const row = template.content.cloneNode(true).querySelector("li");
  const name = `${new Date(created_at * 1000).toLocaleString()}, ${model}`;
  row.querySelector("h3").textContent = name;
  row.querySelector("progress").setAttribute("aria-label", `Progress of the job of ${name}`);
  row.querySelector(".cancel").addEventListener("click", () => attempt(row, async () => {
    const reply = await (await request(`v1/jobs/${id}`, { method: "DELETE" })).json();
    if (reply.deleted) row.remove();
    else tell(row, reply);
  }));
  row.querySelector(".save").addEventListener("click", () => attempt(row, async () => {
    const chosen = format();
    const reply = await request(`v1/jobs/${id}/result?response_format=${SHOWN[chosen]}`);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await reply.blob());
    link.download = `${id}.${chosen}`;
    link.click();
    URL.revokeObjectURL(link.href);
  }));
  return row;
}

function tell(row, { status, seconds_done: done, seconds_total: total, seconds_left: left, error }) {
  const hasEnded = ENDED.has(status);
  row.querySelector("progress").hidden = hasEnded;
  if (total) row.querySelector("progress").value = Math.min(1, done / total);
  row.querySelector(".cancel").textContent = hasEnded ? "Remove" : "Cancel";
  row.querySelector(".save").disabled = status !== "completed";
  const far = total ? `${shortClock(done)} of ${shortClock(total)}` : `${shortClock(done)} are done`;
  const texts = {
    validating: "Waits.",
    in_progress: left == null ? `${far}.` : `${far}, ${shortClock(left)} left.`,
    completed: `Done: ${shortClock(done)}.`,
    failed: error?.message,
    cancelling: "Is being cancelled.",
    cancelled: "Cancelled.",
    expired: "Was not done in time.",
  };
  say(row, texts[status], status === "failed");
}

function say(row, text, isWrong = false) {
  row.querySelector(".item-status").textContent = text;
  row.querySelector(".item-status").classList.toggle("wrong", isWrong);
}

async function attempt(row, work) {
  try {
    await work();
  } catch (error) {
    say(row, error.message, true);
  }
}
