// Live captions: the microphone through the realtime API.

import { sessionKey } from "./server.js";

const PREFIX = "conversation.item.input_audio_transcription.";
const LAST_TEXT_MS = 60_000; // a bound on the wait for it, for a server that does not answer

export class Live {
  #socket;
  #context;
  #stream;
  #texts = new Map(); // item -> what is shown of it, of those without their final text
  #isCleared = false;

  // `show(item, text, isFinal)` is told of every text, `ended(message)` of the end that nobody asked for.
  static async start({ model, language, show, ended }) {
    const live = new Live();
    live.#stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    try {
      await live.#open({ model, language, show, ended });
    } catch (error) {
      live.stop();
      throw error;
    }
    return live;
  }

  stop() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#context?.close();
    const socket = this.#socket;
    if (socket?.readyState !== WebSocket.OPEN) return socket?.close();
    // What is being said gets its text before the session ends.
    this.#socket = null;
    send(socket, "input_audio_buffer.commit");
    send(socket, "input_audio_buffer.clear"); // whose answer comes after that of the commit
    const timer = setTimeout(() => socket.close(), LAST_TEXT_MS);
    socket.addEventListener("close", () => clearTimeout(timer));
  }

  async #open({ model, language, show, ended }) {
    // The rate of the device, where it is one that the server takes; nothing is converted here.
    this.#context = new AudioContext();
    if (this.#context.sampleRate > 48_000) {
      await this.#context.close();
      this.#context = new AudioContext({ sampleRate: 48_000 });
    }
    await this.#context.audioWorklet.addModule("web/pcm-worklet.js");
    const key = await sessionKey();
    const address = new URL("v1/realtime", document.baseURI);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = new WebSocket(address, ["realtime", ...(key ? [`openai-insecure-api-key.${key}`] : [])]);
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = () => reject(new Error("The live session was refused; the server's log says why."));
    });
    this.#socket = socket;
    socket.onmessage = ({ data }) => {
      this.#hear(JSON.parse(data), show, ended);
      if (this.#isCleared && !this.#texts.size) socket.close();
    };
    socket.onclose = () => this.#socket && ended("The live session has ended.");
    send(socket, "session.update", {
      session: {
        type: "transcription",
        audio: {
          input: {
            format: { type: "audio/pcm", rate: this.#context.sampleRate },
            transcription: { model, ...(language ? { language } : {}) },
            turn_detection: { type: "server_vad" },
          },
        },
      },
    });
    const node = new AudioWorkletNode(this.#context, "pcm", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => this.#socket && send(socket, "input_audio_buffer.append", { audio: base64(data) });
    this.#context.createMediaStreamSource(this.#stream).connect(node);
  }

  #hear({ type, item_id: item, ...event }, show, ended) {
    if (type === "input_audio_buffer.committed") {
      this.#texts.set(item, this.#texts.get(item) ?? "");
    } else if (type === `${PREFIX}delta`) {
      this.#texts.set(item, (this.#texts.get(item) ?? "") + event.delta);
      show(item, this.#texts.get(item), false);
    } else if (type === `${PREFIX}completed`) {
      this.#texts.delete(item);
      show(item, event.transcript, true);
    } else if (type === `${PREFIX}failed`) {
      this.#texts.delete(item);
      show(item, `(${event.error.message})`, true); // the turn is lost, and the session goes on
    } else if (type === "input_audio_buffer.cleared") {
      this.#isCleared = true; // after the last commit: nothing more is said
    } else if (type === "error" && event.error.code !== "input_audio_buffer_commit_empty") {
      ended(event.error.message);
    }
  }
}

function send(socket, type, fields = {}) {
  socket.send(JSON.stringify({ type, ...fields }));
}

function base64(buffer) {
  return btoa(String.fromCharCode(...new Uint8Array(buffer)));
}
