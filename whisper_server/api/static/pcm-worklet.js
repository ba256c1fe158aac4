// Microphone samples -> signed 16-bit little-endian mono, in pieces of about 50 ms.

const PIECE = 2_400;

class Pcm extends AudioWorkletProcessor {
  #piece = new DataView(new ArrayBuffer(2 * PIECE));
  #filled = 0;

  process([[samples]]) {
    for (const sample of samples ?? []) {
      this.#piece.setInt16(2 * this.#filled, Math.max(-1, Math.min(1, sample)) * 32_767, true);
      this.#filled += 1;
      if (this.#filled === PIECE) {
        this.port.postMessage(this.#piece.buffer.slice(0));
        this.#filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("pcm", Pcm);
