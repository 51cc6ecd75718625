#!/usr/bin/env bash
# WebKitWebDriver: http_proxy in its environment makes `POST /session` wait forever.
#
# Versions: webkit2gtk-driver 2.50.6-1~deb12u2 (Debian 12), MiniBrowser of libwebkit2gtk-4.1-0, Xvfb, curl.
# Expected: a session. The driver talks to the MiniBrowser that it has started on this machine.
# Seen: no answer as long as http_proxy names an address, here one where nothing listens. Without http_proxy there is a
#   session after some seconds. Start the driver without any *_proxy variable.
# Usage: bash findings/webkitgtk_driver_proxy.sh     (exit 1 if the behaviour has changed; takes half a minute)
set -euo pipefail
browser=$(ls /usr/lib/*/webkit2gtk-4.1/MiniBrowser | head -1)
home=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$home"' EXIT
export HOME=$home XDG_RUNTIME_DIR=$home GDK_BACKEND=x11 GSK_RENDERER=cairo WEBKIT_DISABLE_DMABUF_RENDERER=1
Xvfb -displayfd 3 -screen 0 800x600x24 -nolisten tcp -ac 3>"$home/display" 2>/dev/null &
for _ in $(seq 100); do [ -s "$home/display" ] && break; sleep 0.1; done
export DISPLAY=:$(cat "$home/display")

session() { # PORT PROXY -> the HTTP status of POST /session; 000: none within 15 s
  env -u no_proxy -u NO_PROXY http_proxy="$2" WebKitWebDriver --port="$1" >/dev/null 2>&1 &
  local driver=$!
  for _ in $(seq 100); do curl -s --noproxy '*' -o "$home/status" "http://127.0.0.1:$1/status" && break; sleep 0.1; done
  curl -s --noproxy '*' -m 15 -o "$home/answer" -w '%{http_code}' "http://127.0.0.1:$1/session" -d \
    '{"capabilities":{"alwaysMatch":{"webkitgtk:browserOptions":{"binary":"'"$browser"'","args":["--automation"]}}}}' || true
  kill "$driver"
}

without=$(session 48731 "")
with=$(session 48732 http://127.0.0.1:1)
echo "without http_proxy: $without; with it: $with"
if [ "$without" = 200 ] && [ "$with" = 000 ]; then echo "as seen"; else echo "CHANGED"; exit 1; fi
