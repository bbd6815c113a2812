// The browser of responses, and copying of commands. Everything else of the page is there without this script.
//
// The data is in blocks (see blocks.rs): in the page itself, or in scripts beside it, loaded when they are looked at. No text of a
// model or a data set ever becomes markup, a URL or code here: it goes through `text nodes` only, and formulas through `mathFrom`,
// which makes the few elements it knows. The page's policy allows no other way, not even by mistake.
"use strict";
(() => {
  const ROW = 60; // the height of an entry of the list, as in style.css
  const KEPT = 12; // blocks that stay open
  const [CORRECT, TRUNCATED, NO_ANSWER, FAILED, UNGRADABLE, UNCOUNTED] = [1, 2, 4, 8, 16, 32]; // see responses.rs

  const find = (selector) => document.querySelector(selector);

  // An element with attributes, listeners (`onclick`) and children.
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value != null) element.setAttribute(name, value);
    }
    element.append(...children.flat().filter((child) => child != null && child !== false));
    return element;
  }

  // Characters that would hide or reorder what stands beside them are shown by their number.
  const visible = (text) =>
    String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, (c) =>
      c === "\r" ? "" : `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
  const number = (value) => value.toLocaleString("en");

  // --- blocks ---------------------------------------------------------------------------------------------------------------

  const waiting = new Map(); // name → the promise of its base64, while its script is loading, and how to keep it
  const opened = new Map(); // name → the promise of its JSON, in the order of use

  // Block files call this.
  window.block = (name, base64) => waiting.get(name)?.resolve(base64);

  // Only this script may name scripts to load, and only block files.
  const addresses = window.trustedTypes?.createPolicy("blocks", { createScriptURL: address }) ?? { createScriptURL: address };
  function address(name) {
    if (!/^(index|\d+)$/.test(name)) throw new Error("no block");
    return `data/${name}.js`;
  }

  function base64Of(name) {
    const inline = find(`script[data-block="${name}"]`);
    if (inline) return Promise.resolve(inline.textContent);
    if (waiting.has(name)) return waiting.get(name).promise;
    const script = document.createElement("script");
    const promise = new Promise((resolve, reject) => {
      waiting.set(name, { resolve });
      script.src = addresses.createScriptURL(name);
      script.onload = () => reject(new Error(`data/${name}.js is damaged`)); // if it has not been resolved by now
      script.onerror = () => reject(new Error(`data/${name}.js is not beside this page`));
      document.head.append(script);
    });
    waiting.get(name).promise = promise.finally(() => {
      waiting.delete(name);
      script.remove();
    });
    return waiting.get(name).promise;
  }

  async function inflated(base64) {
    if (!window.DecompressionStream) throw new Error("this browser is too old to read the responses");
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  function load(name) {
    const known = opened.get(name) ?? base64Of(name).then(inflated);
    opened.delete(name);
    opened.set(name, known);
    known.catch(() => opened.delete(name)); // so that the next look tries again
    if (opened.size > KEPT) opened.delete([...opened.keys()].find((other) => other !== "index"));
    return known;
  }

  // The index, with its benchmarks by name. Names and ids are anyone's, so they are in maps and lists and never in objects.
  let ready = null;
  const start = () => (ready ??= load("index").then((loaded) => ({ ...loaded, benchmarks: new Map(loaded.benchmarks) }), (error) => {
    ready = null;
    throw error;
  }));

  const record = async ([block, index]) => (await load(String(block)))[index];

  // --- formulas -------------------------------------------------------------------------------------------------------------

  const MATHML = "http://www.w3.org/1998/Math/MathML";
  const ELEMENTS = new Set(("math mrow mi mn mo ms mtext mspace mfrac msqrt mroot mstyle merror mpadded mphantom msub msup msubsup " +
    "munder mover munderover mmultiscripts mprescripts mtable mtr mtd menclose").split(" "));
  const ATTRIBUTES = new Set(("display displaystyle scriptlevel stretchy symmetric fence separator form lspace rspace minsize maxsize " +
    "movablelimits largeop accent accentunder linethickness width height depth voffset mathvariant columnspan rowspan notation " +
    "class").split(" "));
  const ENTITIES = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" };
  const plain = (text) => text.replace(/&(?:#x([0-9a-f]+)|#(\d+)|(\w+));/gi, (all, hex, decimal, name) =>
    name ? ENTITIES[name] ?? all : String.fromCodePoint(hex ? parseInt(hex, 16) : Number(decimal)));

  // Builds what the report's own converter wrote, element by element; anything else in it stays text.
  function mathFrom(markup) {
    const root = document.createDocumentFragment();
    const stack = [root];
    for (const [, closing, tag, attributes, empty, text] of markup.matchAll(/<(\/?)([a-z]+)((?:\s+[a-z]+="[^"<>]*")*)\s*(\/?)>|([^<]+)/g)) {
      const parent = stack[stack.length - 1];
      if (text != null) parent.append(plain(text));
      else if (closing) { if (stack.length > 1) stack.pop(); }
      else {
        const element = document.createElementNS(MATHML, ELEMENTS.has(tag) ? tag : "mrow");
        for (const [, name, value] of attributes.matchAll(/([a-z]+)="([^"]*)"/g)) {
          if (ATTRIBUTES.has(name)) element.setAttribute(name, plain(value));
          // The policy ignores the attribute; the values are few: colours, and the sides of cells.
          else if (name === "style" && /^[\w\s:;.%#-]*$/.test(value)) element.style.cssText = value;
        }
        parent.append(element);
        if (!empty) stack.push(element);
      }
    }
    return root;
  }

  // Texts and formulas; the answer is marked where a formula does not mark it already.
  function written(pieces, answer) {
    const isBoxed = pieces.some((piece) => Array.isArray(piece) && piece[0].includes('class="boxed"'));
    const last = isBoxed || !answer ? -1 : pieces.findLastIndex((piece) => typeof piece === "string" && place(piece, answer) >= 0);
    return pieces.flatMap((piece, index) => {
      if (Array.isArray(piece)) return mathFrom(piece[0]);
      if (index !== last) return strong(piece);
      const at = place(piece, answer);
      return [...strong(piece.slice(0, at)), make("mark", {}, visible(answer)), ...strong(piece.slice(at + answer.length))];
    });
  }

  // `**words**`, the one mark of Markdown that gets in the way of reading.
  const strong = (text) => text.split(/\*\*(?=\S)([^*\n]+?)\*\*/).map((part, index) => (index % 2 ? make("strong", {}, visible(part)) : visible(part)));

  // Where the answer stands last, not inside a longer word or number.
  function place(text, answer) {
    const isPart = (c) => c != null && /[\p{L}\p{N}]/u.test(c);
    for (let at = text.lastIndexOf(answer); at >= 0; at = at > 0 ? text.lastIndexOf(answer, at - 1) : -1) {
      if (!isPart(text[at - 1]) && !isPart(text[at + answer.length])) return at;
    }
    return -1;
  }

  const shownOr = (pieces, text, answer) => written(pieces?.length ? pieces : text == null ? [] : [text], answer);

  // --- commands -------------------------------------------------------------------------------------------------------------

  const run = find("#run") ? JSON.parse(find("#run").textContent) : null;

  // One word of a command line, whatever is in it.
  function word(text) {
    const safe = String(text).replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, "?");
    return /^[\w@%+=:,./-]+$/.test(safe) ? safe : `'${safe.replaceAll("'", `'\\''`)}'`;
  }

  // `dag trace` for a node; the names come from `dag report`, else from the report's params.
  function trace(index, column, coordinates, where) {
    const port = index.columns[column].is_base ? "base" : "results";
    const at = coordinates.length ? `@${coordinates.join("/")}` : "";
    const node = run?.nodes[`${port}${at}`] ?? `${index.trace?.[port] ?? "NODE"}${at}`;
    return `dag trace ${word(run?.file ?? index.trace?.file ?? "FILE")} ${word(node)}${where ? ` --where ${word(where)}` : ""}`;
  }

  async function copy(text, button) {
    let isCopied = true;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = make("textarea", { class: "away", readonly: true });
      area.value = text;
      document.body.append(area);
      area.select();
      isCopied = document.execCommand("copy");
      area.remove();
    }
    const told = find("#told");
    told.textContent = `${isCopied ? "Copied" : "Copy it by hand"}: ${text}`;
    told.hidden = false;
    clearTimeout(copy.timer);
    copy.timer = setTimeout(() => (told.hidden = true), 4000);
    button?.focus();
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-benchmark]");
    if (!button) return;
    const index = await start();
    const commands = index.columns.flatMap((column, at) => {
      const isMeant = column.arm === button.dataset.arm && column.is_base === (button.dataset.base === "true");
      const coordinates = isMeant ? index.benchmarks.get(button.dataset.benchmark)?.nodes[at] : null;
      return coordinates ? [trace(index, at, coordinates)] : [];
    });
    copy(commands.join("\n"), button);
  });

  if (run) {
    const labels = 3;
    const cell = (tag) => (text, at) => make(tag, at < labels ? { class: "label" } : {}, visible(text ?? ""));
    const heads = ["Node", "In that run", "Computed in", "Took", "Records: new, reused"].map(cell("th"));
    const rows = run.timings.map((line) => make("tr", {}, [line.node, line.ended, line.run, line.took, line.records].map(cell("td"))));
    find("#report").append(make("section", { id: "timings" },
      make("h2", {}, "Timings"),
      make("div", { class: "scroll", tabindex: "0" }, make("table", {}, make("thead", {}, make("tr", {}, heads)), make("tbody", {}, rows))),
      make("p", { class: "note" }, `From the journal of run ${visible(run.run)}, ${visible(run.began)}, as dag report found it; no part of the report's bytes.`)));
  }

  // --- the browser ----------------------------------------------------------------------------------------------------------

  const root = find("#responses");
  if (!root) return;

  let index = null;
  let entries = []; // every problem of every benchmark
  let matches = []; // those that the filters leave
  let current = -1; // which of them is open
  let repeats = []; // which sample each column shows
  const chosen = { benchmark: "", show: "all", right: "most", query: "", columns: new Set() };
  const parts = {}; // elements that are written to

  const label = (at) => {
    const { arm, replicate } = index.columns[at];
    const hasSeveral = index.columns.filter((column) => column.arm === arm).length > 1;
    return visible(hasSeveral && replicate != null ? `${arm} ${replicate}` : arm);
  };
  const colour = (at) => index.columns[at].class;
  const dot = (at) => make("i", { class: `swatch ${colour(at)}`, "aria-hidden": "true" });

  function entry(benchmark, id, item) {
    const tallies = item.responses.map((responses) => {
      const count = (bit) => responses.filter(([, facts]) => facts & bit).length;
      return { of: responses.length, right: count(CORRECT), truncated: count(TRUNCATED), silent: count(NO_ANSWER),
        failed: count(FAILED), ungradable: count(UNGRADABLE) };
    });
    return { benchmark, id, item, tallies, words: null };
  }

  // Whether an arm solves a problem; null where that is not known.
  function isRight({ of, right, ungradable, failed }) {
    if (of === failed || ungradable) return null;
    const graded = of - failed;
    return chosen.right === "any" ? right > 0 : chosen.right === "all" ? right === graded : right * 2 > graded;
  }

  // The filters: what each is called, and when it holds for the tallies of the columns shown.
  function filters() {
    const shown = [...chosen.columns];
    const some = (of) => (tallies) => tallies.some((tally) => tally[of] > 0);
    const each = (test) => (tallies) => tallies.every((tally) => isRight(tally) === test);
    const several = shown.length > 1;
    return [
      ["all", "all", () => true],
      ...(several ? shown.map((column, at) => [`only:${column}`, `only ${label(column)} right`, (tallies) =>
        tallies.every((tally, other) => isRight(tally) === (other === at))]) : [["right", "right", each(true)]]),
      ["wrong", shown.length === 2 ? "both wrong" : several ? "all wrong" : "wrong", each(false)],
      ...(several ? [["right", shown.length === 2 ? "both right" : "all right", each(true)], ["disagree", "disagree", (tallies) => {
        const verdicts = tallies.map(isRight);
        return verdicts.includes(true) && verdicts.includes(false);
      }]] : []),
      ["truncated", "truncated", some("truncated")],
      ["silent", "no answer", some("silent")],
      ["failed", "failed or missing", (tallies) => tallies.some((tally) => tally.failed > 0 || tally.of === 0)],
      ["ungradable", "beyond the grader", some("ungradable")],
    ];
  }

  function refresh({ keep = true } = {}) {
    const open = matches[current];
    const query = chosen.query.trim().toLowerCase();
    const found = entries.filter((one) => {
      if (chosen.benchmark && one.benchmark !== chosen.benchmark) return false;
      if (!query) return true;
      one.words ??= `${one.id}\n${one.item.text}`.toLowerCase();
      return one.words.includes(query);
    });
    const shown = [...chosen.columns];
    const tallies = new Map(found.map((one) => [one, shown.map((column) => one.tallies[column])]));
    const all = filters();
    if (!all.some(([name]) => name === chosen.show)) chosen.show = "all";
    parts.filters.replaceChildren(...all.flatMap(([name, words, holds]) => {
      const count = found.reduce((sum, one) => sum + holds(tallies.get(one)), 0);
      if (count === 0 && name !== chosen.show && name !== "all") return [];
      const press = () => { chosen.show = name; refresh(); };
      return [make("button", { class: "chip", type: "button", "aria-pressed": String(name === chosen.show), onclick: press }, `${words} `, make("b", {}, number(count)))];
    }));
    const [, , holds] = all.find(([name]) => name === chosen.show);
    matches = found.filter((one) => holds(tallies.get(one)));
    current = keep && open ? matches.indexOf(open) : -1;
    parts.count.textContent = matches.length === 1 ? "1 problem" : `${number(matches.length)} problems`;
    parts.space.style.height = `${matches.length * ROW}px`;
    if (current >= 0) reveal(); else parts.list.scrollTop = 0;
    draw();
    position();
  }

  // Draws the entries that are in sight, so that a hundred thousand cost no more than twenty.
  function draw() {
    const first = Math.max(0, Math.floor(parts.list.scrollTop / ROW) - 4);
    const last = Math.min(matches.length, first + Math.ceil(parts.list.clientHeight / ROW) + 9);
    parts.rows.style.transform = `translateY(${first * ROW}px)`;
    parts.rows.replaceChildren(...matches.slice(first, last).map((one, at) => row(one, first + at)));
    parts.empty.hidden = matches.length > 0;
  }

  function row(one, at) {
    const marks = [...chosen.columns].map((column) => {
      const { of, right, failed } = one.tallies[column];
      const words = of === 0 ? "–" : of === failed ? "failed" : of === 1 ? (right ? "✓" : "✗") : `${right}/${of}`;
      return make("span", { class: "mark", title: `${label(column)}: ${of === 0 ? "missing" : `${right} of ${of} right`}` }, dot(column), words);
    });
    return make("a", { class: "row", role: "option", "aria-selected": String(at === current), href: link(one), id: `row-${at}`,
      "aria-setsize": String(matches.length), "aria-posinset": String(at + 1) },
      make("span", { class: "line" }, make("bdi", { class: "id" }, visible(one.id)), ...marks),
      make("bdi", { class: "start" }, visible(one.item.text.slice(0, 160).replace(/\s+/g, " "))));
  }

  function reveal() {
    const { list } = parts;
    const top = current * ROW - list.scrollTop;
    const room = list.clientHeight - ROW;
    // One step beyond the edge moves by one; what is farther away comes into the middle.
    if (top < -ROW || top > room + ROW) list.scrollTop = current * ROW - room / 2;
    else if (top < 0) list.scrollTop += top;
    else if (top > room) list.scrollTop += top - room;
  }

  function position() {
    parts.position.textContent = current < 0 ? "" : `${number(current + 1)} of ${number(matches.length)}`;
    parts.before.disabled = current <= 0;
    parts.after.disabled = current < 0 ? matches.length === 0 : current >= matches.length - 1;
  }

  // --- one problem ----------------------------------------------------------------------------------------------------------

  let showing = 0;
  let wantsThinking = false; // stays open from problem to problem once it was opened

  async function show(one, scroll = true) {
    const turn = ++showing;
    let problem = null;
    let fault = null;
    try {
      problem = await record(one.item.place);
    } catch (error) {
      fault = error;
    }
    if (turn !== showing) return;
    const gold = problem?.gold?.length ? written(problem.gold) : visible(one.item.gold ?? "not given");
    const columns = [...chosen.columns].map((column) => answerOf(one, column));
    parts.detail.replaceChildren(
      make("p", { class: "where" }, make("bdi", {}, visible(one.benchmark)), " / ", make("bdi", {}, visible(one.id)),
        make("button", { type: "button", class: "quiet", onclick: (event) => copy(location.href.split("#")[0] + link(one), event.target) }, "copy link")),
      fault ? make("p", { class: "fault" }, fault.message) : make("div", { class: "text problem", dir: "auto" }, shownOr(problem.shown, problem.text ?? one.item.text)),
      make("p", { class: "gold" }, make("span", { class: "soft" }, "Gold answer "), make("bdi", {}, gold)),
      ...(problem?.messages ? [make("details", { class: "asked" }, make("summary", {}, "What the model was asked"),
        problem.messages.map(({ role, content }) => make("div", { class: "text written" }, make("b", {}, `${visible(role)}: `), visible(content))))] : []),
      make("div", { class: "answers" }, columns),
    );
    parts.detail.scrollTop = 0;
    // On a phone the page scrolls, and the list is above.
    if (scroll && getComputedStyle(root).display === "block") parts.pane.scrollIntoView();
  }

  // One arm's responses to a problem: a tab for each sample, and the chosen one below.
  function answerOf(one, column) {
    const responses = one.item.responses[column];
    const heading = make("h3", {}, dot(column), label(column));
    const card = make("article", { class: "answer", "aria-label": label(column) });
    if (!index.benchmarks.get(one.benchmark).nodes[column]) {
      card.append(heading, make("p", { class: "missing" }, "No results on this benchmark."));
      return card;
    }
    if (responses.length === 0) {
      card.append(heading, make("p", { class: "missing" }, "No response to this problem."));
      return card;
    }
    const body = make("div", { class: "body" });
    const select = (at, tabs) => {
      tabs.forEach((tab, other) => tab.setAttribute("aria-pressed", String(at === other)));
      response(one, column, responses[at], body);
    };
    const tabs = responses.map(([repeat, facts], at) => {
      const [sign, words] = signOf(facts);
      const press = () => {
        repeats[column] = repeat;
        select(at, tabs);
        history.replaceState(null, "", link(one, repeat));
      };
      return make("button", { type: "button", class: `tab ${words}`, title: `sample ${repeat + 1}: ${words}`, "aria-pressed": "false", onclick: press }, responses.length > 1 ? `${repeat + 1} ${sign}` : sign);
    });
    const wanted = responses.findIndex(([repeat]) => repeat === (repeats[column] ?? 0));
    card.append(make("header", {}, heading, make("div", { class: "tabs", role: "group", "aria-label": "samples" }, tabs)), body);
    select(Math.max(0, wanted), tabs);
    return card;
  }

  const signOf = (facts) =>
    facts & FAILED ? ["!", "failed"] : facts & UNGRADABLE ? ["?", "ungradable"] : facts & CORRECT ? ["✓", "right"]
      : facts & TRUNCATED ? ["✂", "truncated"] : facts & NO_ANSWER ? ["∅", "silent"] : ["✗", "wrong"];

  async function response(one, column, [repeat, facts, tokens, block, at], body) {
    const turn = (body.turn = (body.turn ?? 0) + 1);
    const known = [
      facts & FAILED ? "failed" : facts & UNGRADABLE ? "beyond the grader" : facts & CORRECT ? "right" : "wrong",
      ...(facts & (FAILED | UNCOUNTED) ? [] : [`${number(tokens)} tokens`]),
      ...(facts & TRUNCATED ? ["truncated"] : []),
      ...(facts & NO_ANSWER ? ["no answer"] : []),
    ];
    const verdict = make("p", { class: `verdict ${signOf(facts)[1]}` }, known.join(" · "));
    const command = (key) => {
      const isPlain = /^[\w.:@/-]+$/.test(one.id);
      const where = key && !isPlain ? `record_key == "${key}"` : isPlain ? `id == "${one.id}" and repeat == ${repeat}` : null;
      if (!where) return null;
      const text = trace(index, column, index.benchmarks.get(one.benchmark).nodes[column], where);
      return make("p", { class: "command" }, make("code", {}, visible(text)), make("button", { type: "button", class: "quiet", onclick: (event) => copy(text, event.target) }, "copy"));
    };
    if (block == null) {
      body.replaceChildren(verdict, make("p", { class: "missing" }, "Its text is not in this report."), command(null) ?? "");
      return;
    }
    let found;
    try {
      found = await record([block, at]);
    } catch (error) {
      if (turn === body.turn) body.replaceChildren(verdict, make("p", { class: "fault" }, error.message));
      return;
    }
    if (turn !== body.turn) return;
    const facets = [["answer", found.extracted == null ? null : make("bdi", { class: "extracted" }, shownOr(found.extracted_shown, found.extracted))],
      ["found", found.rung && visible(found.rung)], ["verdict", found.verdict && visible(found.verdict)], ["rule", found.rule && visible(found.rule)], ["error", found.error && visible(found.error)]];
    const list = facets.filter(([, value]) => value).map(([name, value]) => make("span", {}, make("span", { class: "soft" }, `${name} `), value));
    const thinking = found.thinking == null ? null : make("details", { class: "thinking", open: wantsThinking, ontoggle: (event) => {
      const inside = event.target.querySelector(".written");
      if (event.target.open && !inside.firstChild) inside.append(visible(found.thinking));
    }, onclick: (event) => { if (event.target.closest("summary")) wantsThinking = !event.currentTarget.open; } },
      make("summary", {}, `Thinking, ${number(found.thinking.length)} characters`), make("div", { class: "text written", dir: "auto" }));
    body.replaceChildren(verdict, make("p", { class: "facets" }, list), ...(thinking ? [thinking] : []),
      ...(found.answer ? [make("div", { class: "text", dir: "auto" }, shownOr(found.shown, found.answer, found.extracted))] : [make("p", { class: "missing" }, "Nothing after the thinking.")]),
      command(found.key) ?? "");
  }

  // --- where we are ---------------------------------------------------------------------------------------------------------

  const link = (one, repeat) => `#${encodeURIComponent(one.benchmark)}/${encodeURIComponent(one.id)}${repeat ? `/${repeat}` : ""}`;

  async function go({ scroll = true } = {}) {
    const isBrowsing = location.hash.includes("/");
    const wasBrowsing = !root.hidden;
    find("#report").hidden = isBrowsing;
    root.hidden = !isBrowsing;
    document.body.classList.toggle("browsing", isBrowsing);
    for (const tab of document.querySelectorAll(".top a")) tab.toggleAttribute("aria-current", (tab.hash === "#/") === isBrowsing);
    if (!isBrowsing) {
      if (wasBrowsing) (location.hash.length > 1 && document.getElementById(location.hash.slice(1)) || document.body).scrollIntoView();
      return;
    }
    if (!index) {
      try {
        index = await start();
      } catch (error) {
        root.replaceChildren(make("p", { class: "fault" }, `The responses cannot be shown: ${error.message}.`));
        return;
      }
      build();
    }
    const [benchmark, id, repeat] = location.hash.slice(1).split("/").map((part) => {
      try { return decodeURIComponent(part); } catch { return part; }
    });
    if (repeat) repeats = index.columns.map(() => Number(repeat));
    if (index.benchmarks.has(benchmark) && chosen.benchmark && chosen.benchmark !== benchmark) {
      chosen.benchmark = parts.benchmark.value = benchmark;
      refresh({ keep: false });
    }
    if (!id) {
      if (index.benchmarks.has(benchmark)) { chosen.benchmark = parts.benchmark.value = benchmark; refresh(); }
      if (matches.length && current < 0) {
        history.replaceState(null, "", link(matches[0]));
        await go({ scroll: false });
      }
      return;
    }
    const isMeant = (one) => one.benchmark === benchmark && one.id === id;
    current = matches.findIndex(isMeant);
    if (current < 0 && entries.some(isMeant)) {
      // It is hidden by the filters: they give way to the link.
      Object.assign(chosen, { benchmark: "", show: "all", query: "" });
      parts.benchmark.value = parts.search.value = "";
      refresh({ keep: false });
      current = matches.findIndex(isMeant);
    }
    if (current < 0) {
      parts.detail.replaceChildren(make("p", { class: "fault" }, `There is no problem ${visible(id)} in ${visible(benchmark)}.`));
    } else {
      reveal();
      await show(matches[current], scroll);
    }
    draw();
    position();
  }

  function step(by) {
    if (!matches.length) return;
    const to = current < 0 ? 0 : Math.min(matches.length - 1, Math.max(0, current + by));
    location.hash = link(matches[to]);
  }

  function sample(by) {
    if (current < 0) return;
    const most = Math.max(1, ...matches[current].item.responses.flat().map(([repeat]) => repeat + 1));
    const now = repeats.find((repeat) => repeat != null) ?? 0;
    repeats = index.columns.map(() => (now + by + most) % most);
    history.replaceState(null, "", link(matches[current], repeats[0]));
    show(matches[current]);
  }

  function build() {
    entries = [...index.benchmarks].flatMap(([name, { items }]) => items.map(([id, item]) => entry(name, id, item)));
    // The base is there for who asks; what is compared are the arms.
    const arms = index.columns.map((_, at) => at).filter((at) => !index.columns[at].is_base);
    chosen.columns = new Set(arms.length ? arms : index.columns.map((_, at) => at));
    const toggle = (at) => (event) => {
      if (event.target.checked) chosen.columns = new Set([...chosen.columns, at].sort((a, b) => a - b));
      else chosen.columns.delete(at);
      refresh();
      if (current >= 0) show(matches[current]);
    };
    const choice = (values, name, onchange) => make("select", { "aria-label": name, onchange }, values.map(([value, words]) => make("option", { value }, words)));
    parts.benchmark = choice([["", "all benchmarks"], ...[...index.benchmarks.keys()].map((name) => [name, visible(name)])], "benchmark",
      (event) => { chosen.benchmark = event.target.value; refresh(); });
    parts.right = choice([["most", "right: most samples"], ["any", "right: any sample"], ["all", "right: all samples"]], "what counts as right",
      (event) => { chosen.right = event.target.value; refresh(); });
    parts.search = make("input", { type: "search", placeholder: "id or text of the problem", "aria-label": "search", oninput: (event) => { chosen.query = event.target.value; refresh(); } });
    parts.filters = make("div", { class: "chips", role: "group", "aria-label": "filters" });
    parts.count = make("span", { class: "soft", role: "status" });
    parts.rows = make("div", { class: "rows" });
    parts.space = make("div", { class: "space" }, parts.rows);
    parts.empty = make("p", { class: "missing", hidden: true }, "No problem is left by these filters.");
    parts.list = make("div", { class: "list", role: "listbox", "aria-label": "problems", tabindex: "0", onscroll: draw }, parts.space, parts.empty);
    parts.position = make("span", { class: "soft" });
    parts.before = make("button", { type: "button", title: "previous (k)", onclick: () => step(-1) }, "← previous");
    parts.after = make("button", { type: "button", title: "next (j)", onclick: () => step(1) }, "next →");
    parts.detail = make("div", { class: "detail", tabindex: "-1" });
    const hasSeveral = entries.some((one) => one.item.responses.some((responses) => responses.length > 1));
    root.replaceChildren(
      make("div", { class: "bar" },
        make("div", { class: "choices" }, parts.benchmark, ...(hasSeveral ? [parts.right] : []), parts.search,
          index.columns.map((_, at) => make("label", { class: "column" }, make("input", { type: "checkbox", checked: chosen.columns.has(at), onchange: toggle(at) }), dot(at), label(at)))),
        parts.filters),
      make("div", { class: "left" }, make("p", { class: "counted" }, parts.count), parts.list),
      parts.pane = make("div", { class: "right" },
        make("p", { class: "steps" }, parts.before, parts.after, parts.position, make("span", { class: "keys soft" }, "j k problems · [ ] samples · t thinking · / search")),
        parts.detail));
    new ResizeObserver(draw).observe(parts.list);
    refresh({ keep: false });
  }

  document.addEventListener("keydown", (event) => {
    if (root.hidden || !index || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest?.("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const does = {
      j: () => step(1), ArrowRight: () => step(1), k: () => step(-1), ArrowLeft: () => step(-1),
      "]": () => sample(1), "[": () => sample(-1), "/": () => parts.search.focus(),
      t: () => { wantsThinking = !wantsThinking; for (const one of document.querySelectorAll(".thinking")) one.open = wantsThinking; },
    }[event.key];
    if (does) { event.preventDefault(); does(); }
  });

  window.addEventListener("hashchange", () => go());
  go();
})();
