// Segments, with the text as it was edited -> files. A segment: {start, end, text, speaker}, times in seconds.

export function clock(seconds, mark = ".") {
  const ms = Math.round(seconds * 1000);
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  return `${two(ms / 3_600_000)}:${two((ms / 60_000) % 60)}:${two((ms / 1000) % 60)}${mark}${String(ms % 1000).padStart(3, "0")}`;
}

export function shortClock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

const said = ({ speaker, text }) => (speaker ? `${speaker}: ${text}` : text);
const cues = (segments) => segments.filter(({ text }) => text);

export const FORMATS = {
  txt: { type: "text/plain", render: (segments) => cues(segments).map(said).join("\n") + "\n" },
  srt: {
    type: "application/x-subrip",
    render: (segments) => cues(segments)
      .map((each, index) => `${index + 1}\n${clock(each.start, ",")} --> ${clock(each.end, ",")}\n${said(each)}\n`)
      .join("\n"),
  },
  vtt: {
    type: "text/vtt",
    render: (segments) => "WEBVTT\n\n" + cues(segments)
      .map((each) => `${clock(each.start)} --> ${clock(each.end)}\n${said(each).replaceAll("&", "&amp;").replaceAll("<", "&lt;")}\n`)
      .join("\n"),
  },
  json: {
    type: "application/json",
    render: (segments) => JSON.stringify({ text: cues(segments).map(({ text }) => text).join(" "), segments }, null, 2) + "\n",
  },
};
