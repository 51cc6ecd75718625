"""Frame and style of a report: light or dark, desk or phone, without a network."""

from string import Template

STYLE = """
:root { color-scheme: light dark; --ink: #1c2420; --soft: #5b665f; --line: #dfe4e0; --page: #f6f7f5; --card: #fff;
  --accent: #2f6b46; --good: #1d6b3c; --good-bg: #def1e3; --bad: #a3240f; --bad-bg: #fbe3dc; --unknown: #5d5a3f;
  --unknown-bg: #eeecd9; --cell: .7rem; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebe7; --soft: #9daaa1; --line: #333b36; --page: #141815;
  --card: #1c211e; --accent: #8cc9a1; --good: #9fdcb2; --good-bg: #1d3a28; --bad: #ffb4a2; --bad-bg: #4a2018;
  --unknown: #d8d3a6; --unknown-bg: #37351f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: clamp(1.4rem, 7vw, 1.9rem); line-height: 1.3; margin: 0 0 .6rem; overflow-x: auto; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .8rem; padding-bottom: .3rem; border-bottom: 2px solid var(--line); }
p { max-width: 44rem; margin: .7rem 0; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: 1.4rem 0 0; font-size: .93rem; }
a { color: var(--accent); }
.eyebrow { color: var(--soft); font-size: .85rem; letter-spacing: .05em; text-transform: uppercase; margin: 0 0 .2rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 0; }
.tiles div, .scroll, dl, figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tiles div { padding: .7rem .8rem; display: flex; flex-direction: column; }
.tiles b { font-size: clamp(1.05rem, 4.5vw, 1.3rem); font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
  line-height: 1.25; }
.tiles span { color: var(--soft); font-size: .85rem; }
.chip { display: inline-block; padding: .1rem .55rem; border-radius: 99px; font-size: .85rem; font-weight: 600;
  white-space: nowrap; }
.good { color: var(--good); background: var(--good-bg); }
.bad { color: var(--bad); background: var(--bad-bg); }
.unknown { color: var(--unknown); background: var(--unknown-bg); }
.warning { max-width: none; padding: .6rem .9rem; border-radius: 10px; font-size: .92rem; }
.scroll { overflow-x: auto; margin: 1rem 0; container-type: inline-size; }
.scroll:has(th:nth-child(10)) { --cell: .45rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
caption { text-align: left; color: var(--soft); padding: .7rem var(--cell) .3rem; font-size: .88rem; }
caption span { position: sticky; left: var(--cell); display: inline-block;
  max-width: min(100cqw - 2 * var(--cell), 50rem); }
th, td { padding: .45rem var(--cell); text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--soft); font-weight: 600; font-size: .85rem; vertical-align: bottom; }
tbody th { font-weight: 600; min-width: 9rem; }
code { font-size: .88em; overflow-wrap: anywhere; }
th code { display: block; font-size: .8rem; font-weight: 400; color: var(--soft); overflow-wrap: normal; }
details { background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin: 1rem 0;
  padding: .7rem 1rem; }
summary { cursor: pointer; font-size: .92rem; color: var(--accent); }
pre { overflow-x: auto; font-size: .82rem; margin: .7rem 0 0; }
.gates td[data-label] { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
dl { display: grid; grid-template-columns: fit-content(60%) 1fr; gap: .35rem 1.4rem; padding: .9rem 1rem;
  margin: 1rem 0; font-size: .92rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1rem 0; padding: .75rem; }
.first { display: grid; grid-template-columns: 1fr 22rem; gap: 1.1rem 1.5rem; align-items: start; margin: 1.2rem 0 0; }
.first figure { margin: 0; grid-column: 2; grid-row: 1; }
.first img { max-width: 100%; }
.first .next { grid-column: 1 / -1; }
.first:not(:has(figure)) { grid-template-columns: 1fr; }
.first:has(figure) .tiles { grid-template-columns: repeat(6, 1fr); }
.first:has(figure) .tiles div { grid-column: span 2; }
.first:has(figure) .tiles div:nth-child(n + 4) { grid-column: span 3; }
h2, h3 { line-height: 1.3; }
.first h2, .section h2 { border: 0; margin: 0; padding: 0; font-size: 1.1rem; }
.first ul { margin: .3rem 0 0; padding-left: 1.2rem; font-size: .92rem; overflow-wrap: anywhere; }
.first li + li { margin-top: .4rem; }
.section { padding: .8rem 1.1rem; margin: .7rem 0; }
.section h2 { display: inline; color: var(--ink); }
h3 { display: inline; font-size: .98rem; font-weight: 600; margin: 0; }
.section :is(figure, dl, .scroll, details) { background: var(--page); }
.section details :is(figure, dl, .scroll) { border: 0; }
.section details figure { padding: 0; }
.section details dl { padding: .2rem 0; }
.section details .scroll { margin-inline: calc(-1 * var(--cell)); }
details > :last-child, details.section > div > :last-child { margin-bottom: .3rem; }
.chart { overflow-x: auto; }
img { display: block; max-width: max(100%, 40rem); height: auto; margin: 0 auto; background: #fff; border-radius: 6px; }
figcaption { color: var(--soft); font-size: .88rem; padding: .6rem .2rem 0; }
@media (max-width: 56rem) {
  .first { grid-template-columns: 1fr; gap: .8rem; margin: .8rem 0 0; }
  .first > *, .first figure, .first .next { grid-column: 1; grid-row: auto; }
  .first figure { padding: .3rem; }
  .first figcaption { padding: .2rem .4rem 0; font-size: .8rem; }
  .first img { max-height: 10rem; width: auto; }
}
@media (max-width: 40rem) {
  :root { --cell: .5rem; }
  main { padding: 1rem 1.1rem 3rem; }
  .tiles { gap: .5rem; }
  .tiles div { padding: .35rem .7rem; }
  .first:has(figure) .tiles div { grid-column: span 3; }
  .first:has(figure) .tiles div:nth-child(odd):last-child { grid-column: span 6; }
  .tiles span { line-height: 1.35; }
  .section { padding: .7rem .6rem; }
  .section details { padding: .6rem; }
  .section > div > dl { padding: .7rem .5rem; }
  dl { grid-template-columns: fit-content(55%) 1fr; gap: .35rem .8rem; }
  .section figure { padding: .5rem; }
  .gates td[data-label] { display: inline-block; }
  .gates thead { position: absolute; clip-path: inset(50%); }
  .gates :is(caption, tbody, tr, th, td) { display: block; }
  .gates tr { border-top: 1px solid var(--line); padding: .5rem 0; }
  .gates :is(th, td) { border: 0; padding: .15rem var(--cell); }
  .gates td:empty { display: none; }
  .gates td[data-label]::before { content: attr(data-label) " "; color: var(--soft); }
}
@media print { body { background: #fff; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; }
  details::details-content { content-visibility: visible; height: auto; } }
"""

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="made-from" content="$made_from">
<title>$title – $kind</title>
<style>$style</style>
</head>
<body>
<main>
<header><p class="eyebrow">$kind</p><h1>$headline</h1><p>$verdict</p>$warning</header>
<div class="first">$picture$summary$advice</div>
<nav aria-label="Contents">$contents</nav>
$gates
$sections
</main>
</body>
</html>
""")
