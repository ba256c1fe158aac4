// The page: options, the queue of recordings, the recorder, live captions, the server's jobs.

import { Item } from "./item.js";
import { showJobs } from "./jobs.js";
import { Live } from "./live.js";
import { key, models, prepare } from "./server.js";

const find = (selector) => document.querySelector(selector);
const LANGUAGES = (
  "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml cy sk te fa " +
  "lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn " +
  "mt sa lb my bo tl mg as tt haw ln ha ba jw su"
).split(" ");

function tell(text, isWrong = false) {
  find("#status").textContent = text;
  find("#status").classList.toggle("wrong", isWrong);
}

// Options

function fillLanguages() {
  const names = new Intl.DisplayNames(document.documentElement.lang, { type: "language" });
  const options = LANGUAGES.map((code) => new Option(names.of(code), code));
  options.sort((one, other) => one.text.localeCompare(other.text));
  find("#language").append(...options);
}

async function fillModels() {
  const known = await models();
  const own = known.filter(({ alias_of }) => !alias_of);
  find("#model").replaceChildren(...own.map(({ id }) => new Option(id, id)));
  // What the hosted API's name means here is this server's default.
  const usual = known.find(({ id }) => id === "whisper-1")?.alias_of;
  if (usual && own.some(({ id }) => id === usual)) find("#model").value = usual;
}

// A file may be chosen before the server has said which models there are.
let listed = null;

function listModels() {
  listed ??= withKey(fillModels).catch((error) => {
    listed = null;
    throw error;
  });
  return listed;
}

async function options() {
  await listModels();
  return { model: find("#model").value, language: find("#language").value, speakers: find("#speakers").checked };
}

// Asks for the key until the server takes it.
async function withKey(work) {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (error.status !== 401) throw error;
      await askForKey();
    }
  }
}

function askForKey() {
  const dialog = find("#key");
  find("#key-value").value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      key.value = find("#key-value").value;
      resolve();
    }, { once: true });
  });
}

// A model that is not on the server's disk is downloaded before it is used, and the page shows how far that is.
async function prepared(model) {
  try {
    for await (const { status, completed, total } of prepare(model)) {
      find("#download").hidden = status === "success";
      if (status === "success") break;
      find("#download-progress").value = completed / total;
      const megabytes = (bytes) => Math.round(bytes / 2 ** 20);
      find("#download-text").textContent =
        status === "converting" ? "It is being converted." : `${megabytes(completed)} of ${megabytes(total)} MB`;
    }
  } finally {
    find("#download").hidden = true;
  }
}

// The queue

const waiting = [];
let isRunning = false;

function add(files) {
  for (const file of files) {
    const item = new Item(file, () => find("#format").value);
    find("#queue").append(item.row);
    waiting.push(item);
  }
  find("#queue-empty").hidden = find("#queue").children.length > 0;
  run();
}

async function run() {
  if (isRunning) return;
  isRunning = true;
  for (let item = waiting.shift(); item; item = waiting.shift()) {
    try {
      const chosen = await options();
      await withKey(() => prepared(chosen.model));
      await withKey(() => item.run(chosen));
    } catch (error) {
      item.fail(error);
    }
  }
  isRunning = false;
}

find("#files").addEventListener("change", ({ target }) => {
  add([...target.files]);
  target.value = "";
});

const drop = find("#drop");
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.remove("over");
  });
}
document.addEventListener("drop", ({ dataTransfer }) => add([...dataTransfer.files]));

// Leaves out calls while one is running: a second click may come before the microphone is allowed.
function once(work) {
  let isBusy = false;
  return async () => {
    if (isBusy) return;
    isBusy = true;
    try {
      await work();
    } finally {
      isBusy = false;
    }
  };
}

// The recorder

let recorder = null;

find("#record").addEventListener("click", once(async () => {
  if (recorder) {
    recorder.stop();
    return;
  }
  tell("");
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    recorder = new MediaRecorder(stream);
  } catch (error) {
    tell(`The microphone cannot be used: ${error.message}`, true);
    return;
  }
  const parts = [];
  recorder.ondataavailable = ({ data }) => parts.push(data);
  recorder.onstop = () => {
    recorder.stream.getTracks().forEach((track) => track.stop());
    const type = recorder.mimeType || "audio/webm";
    const ending = type.includes("mp4") ? "m4a" : type.includes("ogg") ? "ogg" : "webm";
    const name = `Recording ${new Date().toLocaleString()}.${ending}`.replaceAll(/[/:\\]/g, "-");
    recorder = null;
    press(find("#record"), false, "Record");
    add([new File(parts, name, { type })]);
  };
  recorder.start();
  press(find("#record"), true, "Stop recording");
}));

// Live captions

let live = null;

find("#live").addEventListener("click", once(async () => {
  if (live) {
    live.stop();
    live = null;
    press(find("#live"), false, "Live captions");
    return;
  }
  tell("");
  find("#captions").hidden = false;
  find("#captions-text").replaceChildren();
  press(find("#live"), true, "Stop live captions");
  try {
    const chosen = await options();
    await withKey(() => prepared(chosen.model));
    live = await withKey(() => Live.start({ ...chosen, show: caption, ended: endLive }));
  } catch (error) {
    endLive(error.message);
  }
}));

function endLive(message) {
  tell(message, true);
  live?.stop();
  live = null;
  press(find("#live"), false, "Live captions");
}

function caption(item, text, isFinal) {
  const place = find("#captions-text");
  const existing = [...place.children].find(({ dataset }) => dataset.item === item);
  const line = existing ?? place.appendChild(document.createElement("p"));
  line.dataset.item = item;
  line.textContent = text;
  line.classList.toggle("open", !isFinal);
  if (isFinal && !text) line.remove();
  place.scrollTop = place.scrollHeight;
}

function press(button, isPressed, text) {
  button.setAttribute("aria-pressed", String(isPressed));
  button.textContent = text;
}

fillLanguages();
listModels()
  .then(() => showJobs(() => find("#format").value))
  .catch((error) => tell(error.message, true));
