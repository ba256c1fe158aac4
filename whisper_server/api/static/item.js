// One recording of the queue: its row, its transcript as it comes in, its player.

import { FORMATS, shortClock } from "./formats.js";
import { transcribe } from "./server.js";

const template = document.querySelector("#item");

export class Item {
  #file;
  #segments = []; // {start, end, speaker, element, words: [{start, end, element}]}
  #abort = new AbortController();
  #spoken = null; // the word that is marked
  #row = template.content.cloneNode(true).querySelector("li");

  constructor(file, format) {
    this.#file = file;
    this.#find("h3").textContent = file.name;
    this.#find("audio").src = URL.createObjectURL(file);
    this.#find("audio").setAttribute("aria-label", `Play ${file.name}`);
    this.#find("progress").setAttribute("aria-label", `Progress of ${file.name}`);
    this.#find("progress").removeAttribute("value");
    this.#find("audio").addEventListener("timeupdate", () => this.#mark());
    this.#find(".cancel").addEventListener("click", () => this.#abort.abort());
    this.#find(".save").addEventListener("click", () => this.#save(format()));
    this.#tell("Waits.");
  }

  get row() { return this.#row; }

  // Transcribes; what goes wrong stands in the row, and a missing key is thrown.
  async run(options) {
    const began = performance.now();
    this.#segments = [];
    this.#find(".transcript").replaceChildren();
    this.#tell("Is being sent.");
    try {
      for await (const event of transcribe(this.#file, { ...options, signal: this.#abort.signal })) {
        if (event.type === "transcript.text.segment") {
          this.#add(event);
          this.#progress(event.end, (performance.now() - began) / 1000);
        }
      }
      this.#tell(this.#segments.length ? "Done." : "Nobody speaks in it.");
    } catch (error) {
      if (error.status === 401) throw error;
      this.fail(error);
    }
    this.#end();
  }

  // Says what went wrong; what has come in until then stays.
  fail(error) {
    this.#tell(error.name === "AbortError" ? "Cancelled." : error.message, error.name !== "AbortError");
    this.#end();
  }

  #end() {
    this.#find("progress").hidden = true;
    this.#find(".cancel").hidden = true;
    this.#find(".save").disabled = !this.#segments.length;
  }

  #find(selector) { return this.#row.querySelector(selector); }

  #tell(text, isWrong = false) {
    this.#find(".item-status").textContent = text;
    this.#find(".item-status").classList.toggle("wrong", isWrong);
  }

  #progress(done, elapsed) {
    const { duration } = this.#find("audio");
    if (!(duration > 0 && Number.isFinite(duration))) {
      this.#tell(`${shortClock(done)} are done.`);
      return;
    }
    this.#find("progress").value = Math.min(1, done / duration);
    const left = Math.max(0, (elapsed * (duration - done)) / done);
    this.#tell(`${shortClock(done)} of ${shortClock(duration)}, ${shortClock(left)} left.`);
  }

  #add({ start, end, text, speaker, words = [] }) {
    const line = document.createElement("p");
    const time = document.createElement("button");
    time.type = "button";
    time.textContent = shortClock(start);
    time.setAttribute("aria-label", `Play from ${shortClock(start)}`);
    time.addEventListener("click", () => this.#play(start));
    const element = document.createElement("span");
    element.contentEditable = "true";
    element.role = "textbox";
    element.setAttribute("aria-label", `Text at ${shortClock(start)}`);
    const timed = this.#fill(element, text.trim(), words ?? []);
    if (speaker) {
      const name = document.createElement("span");
      name.className = "speaker";
      name.textContent = speaker;
      line.append(time, name, element);
    } else {
      line.append(time, element);
    }
    this.#find(".transcript").append(line);
    this.#segments.push({ start, end, speaker, element, words: timed });
  }

  // Puts a text into an element, with a span around every word whose time is known.
  #fill(element, text, words) {
    const timed = [];
    let at = 0;
    for (const { word, start, end } of words) {
      const found = text.indexOf(word.trim(), at);
      if (found < 0 || !word.trim()) continue;
      element.append(text.slice(at, found));
      const span = document.createElement("span");
      span.textContent = word.trim();
      span.addEventListener("click", () => this.#seek(start));
      element.append(span);
      timed.push({ start, end, element: span });
      at = found + word.trim().length;
    }
    element.append(text.slice(at));
    return timed;
  }

  #seek(seconds) { this.#find("audio").currentTime = seconds; }

  #play(seconds) {
    this.#seek(seconds);
    this.#find("audio").play();
  }

  // Marks the word that is heard now.
  #mark() {
    const now = this.#find("audio").currentTime;
    const segment = this.#segments.findLast(({ start }) => start <= now);
    const word = segment?.words.findLast(({ start }) => start <= now)?.element ?? null;
    if (word === this.#spoken) return;
    this.#spoken?.classList.remove("spoken");
    word?.classList.add("spoken");
    this.#spoken = word;
  }

  #save(format) {
    const segments = this.#segments.map(({ start, end, speaker, element }) => ({
      start, end, ...(speaker ? { speaker } : {}), text: element.textContent.trim(),
    }));
    const { type, render } = FORMATS[format];
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([render(segments)], { type }));
    link.download = `${this.#file.name.replace(/\.[^.]*$/, "")}.${format}`;
    link.click();
    URL.revokeObjectURL(link.href);
  }
}
