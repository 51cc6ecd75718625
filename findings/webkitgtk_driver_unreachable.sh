#!/usr/bin/env bash
# WebKitWebDriver: `POST /session/ID/url` reports success for a page that can't be reached.
#
# Versions: webkit2gtk-driver 2.50.6-1~deb12u2 (Debian 12), MiniBrowser of libwebkit2gtk-4.1-0, Xvfb, curl.
# Expected: an error, as WebDriver's "navigate to" asks for (and Firefox gives) where the navigation fails.
# Seen: status 200, value null, for a loopback port where nothing listens; document.URL is then about:blank, and the
#   body WebKit's own sentence. Who drives it has to compare document.URL.
# Usage: bash findings/webkitgtk_driver_unreachable.sh     (exit 1 if the behaviour has changed; takes some seconds)
set -euo pipefail
browser=$(ls /usr/lib/*/webkit2gtk-4.1/MiniBrowser | head -1)
home=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$home"' EXIT
unset http_proxy HTTP_PROXY https_proxy all_proxy
export HOME=$home XDG_RUNTIME_DIR=$home GDK_BACKEND=x11 GSK_RENDERER=cairo WEBKIT_DISABLE_DMABUF_RENDERER=1
Xvfb -displayfd 3 -screen 0 800x600x24 -nolisten tcp -ac 3>"$home/display" 2>/dev/null &
for _ in $(seq 100); do [ -s "$home/display" ] && break; sleep 0.1; done
export DISPLAY=:$(cat "$home/display")
base=http://127.0.0.1:48733
WebKitWebDriver --port=48733 >/dev/null 2>&1 &
for _ in $(seq 100); do curl -s -o /dev/null $base/status && break; sleep 0.1; done
id=$(curl -s -m 30 $base/session -d \
  '{"capabilities":{"alwaysMatch":{"webkitgtk:browserOptions":{"binary":"'"$browser"'","args":["--automation"]}}}}' |
  sed 's/.*"sessionId":"\([^"]*\)".*/\1/')
status=$(curl -s -m 30 -o "$home/answer" -w '%{http_code}' $base/session/$id/url -d '{"url":"http://127.0.0.1:48734/"}')
url=$(curl -s -m 30 $base/session/$id/execute/sync -d '{"script":"return document.URL","args":[]}')
curl -s -m 10 -o /dev/null -X DELETE $base/session/$id
echo "navigate: $status $(cat "$home/answer"); document.URL: $url"
if [ "$status" = 200 ] && [ "$url" = '{"value":"about:blank"}' ]; then echo "as seen"; else echo "CHANGED"; exit 1; fi
