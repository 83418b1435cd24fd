"""The style of the page, light and dark."""

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --soft: #57606a;
  --rule: #d0d7de; --box: #f6f8fa; --warn: #fff4e0; --warn-rule: #b45f06;
  --c0: #0072b2; --c1: #c14f00; --c2: #00785a; --c3: #a8508a; --c4: #8a6d00;
  --c5: #4a5aa8; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e6e9ed;
  --soft: #a3acb7; --rule: #3a424c; --box: #1d232a; --warn: #33270f;
  --warn-rule: #e6a23c; --c0: #56b4e9; --c1: #ff9a57; --c2: #3ccfa4; --c3: #e79bc8;
  --c4: #e3c34d; --c5: #a5b1f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--rule);
  padding-bottom: .25rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; overflow-wrap: anywhere; }
p, figcaption, li { max-width: 46rem; }
p { margin: .5rem 0; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; margin: .5rem 0;
  list-style: none; }
a { color: var(--c0); }
.missing { background: var(--warn); border-left: 4px solid var(--warn-rule);
  padding: .5rem 1rem; margin: 1rem 0; }
.missing ul { margin: .25rem 0; padding-left: 1.2rem; }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
.charts { display: grid; gap: 1rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
figure { margin: .5rem 0; min-width: 0; }
svg { display: block; width: 100%; max-width: 28rem; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0;
  font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem .25rem 0; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, .text { text-align: left; }
td.text { white-space: normal; overflow-wrap: anywhere; min-width: 3.5rem; }
th[scope="row"] { font-weight: normal; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: 0 0 .25rem;
  padding: 0; list-style: none; font-size: .9rem; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .35em;
  border-radius: 2px; background: var(--c); }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); }
.c3 { --c: var(--c3); } .c4 { --c: var(--c4); } .c5 { --c: var(--c5); }
.c6 { --c: var(--soft); }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
.dot, .bar { fill: var(--c); }
.ring { fill: var(--paper); stroke: var(--c); stroke-width: 2; }
.grid { stroke: var(--rule); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1; }
.whisker { stroke: var(--ink); stroke-width: 1.5; }
.label, .heading { fill: var(--ink); font: 13px system-ui, sans-serif; }
.heading { font-weight: 600; }
.hit { color: var(--c2); font-weight: 600; }
@media print { body { max-width: none; } .wide { overflow: visible; } }
"""
