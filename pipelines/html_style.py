"""How the HTML report looks: one style sheet, light and dark, on screen and on paper."""

STYLE = """
:root {
  --ground: #ffffff; --card: #f6f7f9; --ink: #17191f; --soft: #596070; --rule: #d9dde5; --grid: #e9ecf1;
  --blue: #1f6fb2; --good: #0a7d5a; --bad: #c2410c; --gold: #b57400; --tint: #e8f1fa; --bad-tint: #fbeae1;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14161b; --card: #1c1f26; --ink: #e9ebf0; --soft: #a0a8b8; --rule: #363c48; --grid: #282d37;
    --blue: #66b0ee; --good: #45c79a; --bad: #f28c55; --gold: #f0b849; --tint: #1a2a3a; --bad-tint: #35221a;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); overflow-wrap: break-word;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 24px 64px; }
header { border-bottom: 1px solid var(--rule); margin-bottom: 20px; padding-bottom: 4px; }
.kind { color: var(--soft); font-size: 13px; margin: 0; }
h1 { font-size: 27px; line-height: 1.28; letter-spacing: -0.012em; margin: 4px 0 10px; text-wrap: balance; }
h2 { font-size: 19px; margin: 36px 0 8px; }
h3 { font-size: 15.5px; margin: 22px 0 6px; }
p, ul { margin: 6px 0; }
ul { padding-left: 20px; }
.lead li { margin: 4px 0; }
.note { color: var(--soft); font-size: 13px; max-width: 92ch; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 16px 0 12px; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 9px 13px 10px;
  flex: 1 1 128px; }
.tile b { display: block; font-size: 20px; white-space: nowrap; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 12.5px; display: block; line-height: 1.35; }
.wide { overflow-x: auto; margin: 10px 0; }
.wide > svg { min-width: 760px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; font-size: 12.5px; vertical-align: bottom;
  border-bottom: 1px solid var(--rule); white-space: pre-line; }
th, td { padding: 5px 10px; text-align: left; unicode-bidi: isolate; }
th:first-child, td:first-child { padding-left: 4px; }
td { border-bottom: 1px solid var(--grid); vertical-align: top; }
.n { text-align: right; white-space: nowrap; }
th.n { white-space: pre-line; }
tr.chosen td { background: var(--tint); font-weight: 650; }
tr.refused td, tr.apart td { color: var(--soft); }
.figures { font-size: 12.8px; } .figures th, .figures td { padding: 5px 6px; }
.figures td:first-child, .figures td:last-child, .facts td:first-child { white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); }
code, pre { font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { overflow-wrap: anywhere; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 11px 14px; overflow-x: auto;
  white-space: pre-wrap; unicode-bidi: isolate; margin: 8px 0; }
.samples td { white-space: pre-wrap; min-width: 190px; max-width: 420px; vertical-align: top; }
details { border: 1px solid var(--rule); border-radius: 8px; margin: 10px 0; padding: 0 14px; }
details[open] { padding-bottom: 8px; }
summary { cursor: pointer; padding: 9px 0; font-weight: 600; }
details details { border-width: 1px 0 0; border-radius: 0; padding: 0; margin: 14px 0 0; }
.alarm { background: var(--bad-tint); border-left: 4px solid var(--bad); padding: 8px 14px; border-radius: 4px; }
svg { display: block; width: 100%; height: auto; margin: 8px 0; font-family: inherit; }
svg text { fill: var(--ink); font-size: 12px; font-variant-numeric: tabular-nums; }
svg .small { font-size: 11px; } svg .dim { fill: var(--soft); } svg .strong { font-weight: 650; }
svg .end { text-anchor: end; } svg .mid { text-anchor: middle; }
svg .grid { stroke: var(--grid); stroke-width: 1; } svg .axis { stroke: var(--rule); stroke-width: 1; }
svg .bar { stroke: var(--soft); stroke-width: 1.4; opacity: 0.75; fill: none; }
svg .front { stroke: var(--blue); stroke-width: 2; fill: none; opacity: 0.55; }
svg .path { stroke: var(--soft); stroke-width: 1.3; fill: none; opacity: 0.7; }
svg .thin { stroke: var(--soft); stroke-width: 1; fill: none; opacity: 0.35; }
svg .leader { stroke: var(--soft); stroke-width: 0.8; opacity: 0.7; }
svg .origin { fill: var(--ground); stroke: var(--ink); stroke-width: 1.8; }
svg .on-front { fill: var(--blue); stroke: var(--ground); stroke-width: 1; }
svg .alike { fill: var(--blue); stroke: var(--blue); stroke-width: 1.8; }
svg .behind { fill: var(--ground); stroke: var(--blue); stroke-width: 1.8; }
svg .chosen { fill: var(--gold); stroke: var(--ink); stroke-width: 1; }
svg .apart { fill: none; stroke: var(--soft); stroke-width: 1.8; }
svg .refused { fill: none; stroke: var(--bad); stroke-width: 2.2; }
svg .lost { fill: var(--bad); } svg .gained { fill: var(--good); } svg .kept { fill: var(--blue); opacity: 0.3; }
svg .whole { fill: var(--soft); opacity: 0.3; } svg .saved { fill: var(--blue); }
svg .arc { stroke: var(--gold); stroke-width: 1.6; fill: none; } svg .arrow { fill: var(--gold); }
svg .rail { stroke: var(--rule); stroke-width: 2; }
.columns { display: flex; flex-wrap: wrap; gap: 8px 24px; }
.columns svg { margin: 0; flex: 0 1 340px; width: 340px; }
footer { color: var(--soft); font-size: 12.5px; margin-top: 36px; border-top: 1px solid var(--rule);
  padding-top: 10px; }
@media print {
  :root { --ground: #fff; --card: #fff; --ink: #000; --soft: #444; --rule: #bbb; --grid: #ddd; --tint: #eee;
    --blue: #1f6fb2; --good: #0a7d5a; --bad: #c2410c; --gold: #b57400; --bad-tint: #fff; }
  body { font-size: 11px; } main { max-width: none; padding: 0; }
  h2, h3, summary { break-after: avoid; } svg, tr, .tile { break-inside: avoid; }
  .wide, pre { overflow: visible; } .wide > svg { min-width: 0; }
  h1 { font-size: 19px; } .tile { padding: 5px 8px; flex-basis: 90px; } .tile b { font-size: 14px; }
  .note, .tile span { font-size: 9.5px; } table, .figures { font-size: 9px; }
  .figures th, .figures td { padding: 3px; } th, td { padding: 3px 5px; }
  details::details-content { content-visibility: visible; height: auto; } details > * { display: block; }
}
@page { margin: 14mm; }
"""
