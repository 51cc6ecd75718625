// Keeps the page for visits without a network: every file of files.json, fetched at the first visit. A new export has
// another files.json, and its files take the place of the old ones together, so that no page is made of two exports.
// Other pages of the same host keep caches of their own: ours have the scope in their names, and no other is touched.
"use strict";

const LIST = "files.json";
const here = (path) => new URL(path, self.registration.scope).href;
const PREFIX = `${self.registration.scope} `;
const ours = async () => (await caches.keys()).filter((name) => name.startsWith(PREFIX));

async function keep() {
  const response = await fetch(here(LIST), { cache: "no-cache" });
  if (!response.ok) throw new Error(`${LIST}: ${response.status}`);
  const text = await response.text();
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  const version = PREFIX + Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const cache = await caches.open(version);
  if (!(await cache.match(here(LIST)))) {
    await cache.addAll(Object.keys(JSON.parse(text)).map((path) => new Request(here(path), { cache: "no-cache" })));
    await cache.put(here("./"), await cache.match(here("index.html")));
    await cache.put(here(LIST), new Response(text)); // last: a worker killed before it fetches them again
  }
  for (const name of await ours()) if (name !== version) await caches.delete(name);
}

/** What was kept of a request, in our caches alone, and there in one that is whole. */
async function kept(request) {
  for (const cacheName of await ours()) {
    if (!(await caches.match(here(LIST), { cacheName }))) continue;
    const found = await caches.match(request, { cacheName, ignoreSearch: true });
    if (found) return found;
  }
  return Response.error();
}

self.addEventListener("install", (event) => event.waitUntil(keep().then(() => self.skipWaiting())));
// Not waited for: in Firefox a thread of WebAssembly that waits for work never answers, and no request would be served.
self.addEventListener("activate", () => void self.clients.claim());

/** From the network while there is one, so that a new export shows at once; else what was kept. */
self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET" || !event.request.url.startsWith(self.registration.scope)) return;
  event.respondWith(
    fetch(event.request).catch(() => kept(event.request)),
  );
  if (event.request.mode === "navigate") event.waitUntil(keep().catch(() => {}));
});
