/** The API reference's style sheet: readable in light and dark, on a wide screen and on a phone. */
export const STYLE = `
:root{color-scheme:light dark;--fg:#1c2430;--dim:#5b6675;--bg:#fff;--side:#f6f8fa;--line:#dde3ea;--code:#f2f5f8;--link:#0b5cad;--get:#0a6b3d;--post:#0b5cad;--patch:#8a5a00;--delete:#b3261e;--put:#6b3fa0}
@media (prefers-color-scheme:dark){:root{--fg:#dfe6ee;--dim:#98a5b5;--bg:#12161c;--side:#181d25;--line:#2b333e;--code:#1d242e;--link:#79b8ff;--get:#5ccb8f;--post:#79b8ff;--patch:#e0b050;--delete:#ff8a80;--put:#c3a1f0}}
*{box-sizing:border-box}
body{margin:0;color:var(--fg);background:var(--bg);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;display:grid;grid-template-columns:19rem minmax(0,1fr)}
nav{position:sticky;top:0;height:100vh;overflow:auto;background:var(--side);border-right:1px solid var(--line);padding:1.2rem 1rem;font-size:.9rem}
nav strong{display:block;font-size:1.1rem;margin-bottom:.6rem}
nav h3{margin:1.1rem 0 .3rem;font-size:.78rem;text-transform:uppercase;letter-spacing:.06em;color:var(--dim)}
nav a{display:flex;gap:.5rem;align-items:baseline;padding:.12rem 0;color:var(--fg);text-decoration:none}
nav a:hover,nav a:focus{text-decoration:underline}
main{max-width:72rem;padding:2rem clamp(1rem,4vw,3rem) 6rem}
h1{margin:0 0 .5rem;font-size:2rem}h2{margin:3rem 0 .6rem;padding-top:.6rem;border-top:1px solid var(--line)}h3{margin:2.4rem 0 .4rem}h4{margin:1.3rem 0 .3rem;font-size:.95rem}
a{color:var(--link)}
code,pre{font:.87em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;background:var(--code);border-radius:4px}
code{padding:.1em .3em;overflow-wrap:anywhere}pre{padding:.8rem 1rem;overflow:auto;border:1px solid var(--line)}pre code{padding:0;background:none;overflow-wrap:normal}
table{border-collapse:collapse;width:100%;font-size:.9rem}th,td{text-align:left;vertical-align:top;padding:.4rem .6rem;border-bottom:1px solid var(--line)}td:last-child{min-width:16rem}th{color:var(--dim);font-weight:600}
.wide{overflow-x:auto}
.verb{font:700 .72rem/1 ui-monospace,Menlo,Consolas,monospace;min-width:3.6em;display:inline-block}
.get{color:var(--get)}.post{color:var(--post)}.patch{color:var(--patch)}.delete{color:var(--delete)}.put{color:var(--put)}
.path{font:600 1rem/1.4 ui-monospace,Menlo,Consolas,monospace;background:var(--code);border:1px solid var(--line);border-radius:6px;padding:.5rem .8rem;overflow-wrap:anywhere}
.dim{color:var(--dim)}.need{color:var(--delete);font-size:.78rem}
.codes{display:flex;flex-wrap:wrap;gap:.4rem;padding:0;list-style:none}.codes a{border:1px solid var(--line);border-radius:999px;padding:.05rem .6rem;text-decoration:none;font-size:.85rem}
@media (max-width:55rem){body{display:block}nav{position:static;height:auto;max-height:40vh;border-right:0;border-bottom:1px solid var(--line)}}
@media (max-width:40rem){.fields thead{display:none}.fields tr{display:block;padding:.4rem 0;border-bottom:1px solid var(--line)}.fields td{display:block;min-width:0;padding:.1rem 0;border:0}}
`;
