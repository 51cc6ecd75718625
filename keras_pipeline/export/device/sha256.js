// SHA-256, also where the browser hides its own: over plain http from another machine.

const CONSTANTS = [...primes(64)].map((prime) => fraction(Math.cbrt(prime)));
const START = [...primes(8)].map((prime) => fraction(Math.sqrt(prime)));

export const HASHED_BY = globalThis.crypto?.subtle ? "browser" : "JavaScript";

/** ArrayBuffer or typed array -> 64 hexadecimal digits. */
export async function sha256(data) {
  if (HASHED_BY === "JavaScript") return sha256InJavaScript(data);
  return hex(new Uint8Array(await crypto.subtle.digest("SHA-256", data)));
}

/** The same (FIPS 180-4). */
export function sha256InJavaScript(data) {
  const bytes = data instanceof ArrayBuffer ? new Uint8Array(data) : new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const whole = bytes.length - (bytes.length % 64);
  const state = Int32Array.from(START), words = new Int32Array(64);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at < whole; at += 64) block(state, words, view, at);
  const left = bytes.length - whole;
  const end = new Uint8Array(left < 56 ? 64 : 128);
  end.set(bytes.subarray(whole));
  end[left] = 0x80;
  const last = new DataView(end.buffer);
  last.setUint32(end.length - 8, Math.floor(bytes.length / 2 ** 29));
  last.setUint32(end.length - 4, (bytes.length << 3) >>> 0);
  for (let at = 0; at < end.length; at += 64) block(state, words, last, at);
  const digest = new DataView(new ArrayBuffer(32));
  state.forEach((word, i) => digest.setInt32(4 * i, word));
  return hex(new Uint8Array(digest.buffer));
}

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

const turn = (word, bits) => (word >>> bits) | (word << (32 - bits));

function block(state, words, view, at) {
  for (let i = 0; i < 16; i++) words[i] = view.getInt32(at + 4 * i);
  for (let i = 16; i < 64; i++) {
    const early = words[i - 15], late = words[i - 2];
    const first = turn(early, 7) ^ turn(early, 18) ^ (early >>> 3), second = turn(late, 17) ^ turn(late, 19) ^ (late >>> 10);
    words[i] = words[i - 16] + first + words[i - 7] + second;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let i = 0; i < 64; i++) {
    const one = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + CONSTANTS[i] + words[i]) | 0;
    const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((word, i) => { state[i] += word; });
}

/** The first 32 bits behind the point. */
function fraction(root) {
  return Math.floor((root - Math.floor(root)) * 2 ** 32) | 0;
}

function* primes(count) {
  for (let n = 2; count; n++) {
    let divisor = 2;
    while (divisor * divisor <= n && n % divisor) divisor++;
    if (divisor * divisor > n) {
      count--;
      yield n;
    }
  }
}
