"""How the report looks: one sheet, light and dark, from a phone's width up."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b1f24; --soft: #5b6470; --line: #dfe3e8; --stripe: #f2f4f7;
  --restored: #0067a8; --input: #c75500; --truth: #00785a; --good: #e6f1f9; --warn: #8a4b00; --warn-page: #fff5e6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1d2126; --ink: #e7eaee; --soft: #a0a9b5; --line: #343b44; --stripe: #23282e;
    --restored: #5db7ee; --input: #f0a04b; --truth: #45c69b; --good: #1b3346; --warn: #f0b95c; --warn-page: #2f2718;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -.01em; }
h2 { font-size: 21px; margin: 48px 0 4px; }
h3 { font-size: 16px; margin: 0; overflow-wrap: anywhere; }
p { margin: 4px 0; }
code { font: 14px/1.4 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; overflow-wrap: anywhere; }
.soft { color: var(--soft); font-size: 14px; }
.restored { color: var(--restored); } .input { color: var(--input); } .truth { color: var(--truth); }
.what { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 16px 0 8px; }
.what dt { font-weight: 600; } .what dd { margin: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 16px; margin: 24px 0 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px; }
.tile .name { color: var(--soft); font-size: 14px; }
.tile .value { font-size: 30px; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile .unit { font-size: 16px; font-weight: 400; color: var(--soft); }
.wrap { background: var(--card); border: 1px solid var(--line); border-radius: 12px; margin-top: 12px;
  overflow: hidden; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 10px 14px; text-align: right; border-top: 1px solid var(--line); vertical-align: top; }
thead th { border-top: 0; color: var(--soft); font-size: 13px; font-weight: 600; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tbody th { font-weight: 600; width: 44%; }
tbody th .soft { font-weight: 400; display: block; font-size: 13px; line-height: 1.4; }
td { font-variant-numeric: tabular-nums; white-space: nowrap; }
.missing th { color: var(--soft); } .missing td { white-space: normal; text-align: left; font-size: 13px;
  line-height: 1.4; color: var(--soft); } .missing b { color: var(--warn); }
td.best { background: var(--good); font-weight: 650; }
td.dash { color: var(--soft); }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 16px; margin-top: 12px; }
.plots .card { padding: 14px 14px 8px; }
.plots svg { display: block; width: 100%; height: auto; margin-top: 8px; }
svg text { fill: var(--soft); font-size: 11.5px; font-family: inherit; font-variant-numeric: tabular-nums; }
svg .side { font-size: 12px; font-weight: 600; }
svg .rule { stroke: var(--line); stroke-width: 1; }
svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .bar.restored { fill: var(--restored); } svg .bar.input { fill: var(--input); }
svg .bar.truth { fill: var(--truth); }
svg .side.restored { fill: var(--restored); } svg .side.input { fill: var(--input); }
svg .side.truth { fill: var(--truth); }
svg .mean { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 3 2; }
svg .mean-text { fill: var(--ink); font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
svg .line { fill: none; stroke-width: 1.5; } svg .line.restored { stroke: var(--restored); }
svg .line.input { stroke: var(--input); stroke-dasharray: 6 3; }
svg .line.truth { stroke: var(--truth); stroke-dasharray: 1.5 2.5; }
.worst { display: grid; gap: 16px; margin-top: 12px; }
.worst .card { display: grid; grid-template-columns: minmax(0, 3fr) minmax(240px, 2fr); gap: 8px 24px; }
.worst header { grid-column: 1 / -1; display: flex; flex-wrap: wrap; justify-content: space-between; gap: 4px 16px; }
.worst .by { font-variant-numeric: tabular-nums; font-weight: 600; }
.pictures { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 256px); gap: 8px; align-items: start; }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; border-radius: 8px; background: var(--stripe); }
figcaption { font-size: 13px; font-weight: 600; padding-top: 4px; }
.worst td, .worst th { padding: 3px 0 3px 12px; font-size: 13px; line-height: 1.35; }
.worst th:first-child { padding-left: 0; font-weight: 400; white-space: normal; width: auto; }
.worst thead th { padding-top: 0; }
.notes { background: var(--warn-page); border: 1px solid var(--line); border-left: 4px solid var(--warn);
  border-radius: 8px; padding: 12px 16px; margin-top: 12px; }
.notes ul { margin: 4px 0; padding-left: 20px; } .notes li { margin: 4px 0; overflow-wrap: anywhere; }
footer { margin-top: 48px; }
@media (max-width: 760px) {
  main { padding: 20px 14px 40px; }
  h1 { font-size: 24px; } h2 { margin-top: 36px; }
  .what { grid-template-columns: 1fr; gap: 0; } .what dd { margin-bottom: 6px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 10px; } .card { padding: 12px; } .tile .value { font-size: 24px; }
  .figures thead { position: absolute; left: -999em; }
  .figures tr { display: grid; grid-template-columns: repeat(3, 1fr); padding: 10px 12px;
    border-top: 1px solid var(--line); }
  .figures tbody:first-of-type tr:first-child { border-top: 0; } .figures .missing td { grid-column: 1 / -1; }
  .figures .missing td::before { display: none; }
  .figures th, .figures td { border: 0; padding: 2px 6px; text-align: left; }
  .figures tbody th { grid-column: 1 / -1; width: auto; padding-bottom: 4px; }
  .figures td.dash { display: none; } .figures td { border-radius: 6px; white-space: normal; }
  .figures td::before { content: attr(data-label); display: block; color: var(--soft); font-size: 12px;
    font-weight: 400; }
  .worst .card { grid-template-columns: 1fr; }
  .plots { grid-template-columns: 1fr; }
}
@media print { body { background: none; } .card, .wrap { break-inside: avoid; } }
"""
