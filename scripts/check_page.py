#!/usr/bin/env python3
"""Opens a report's page in headless Chromium, from disk, and measures it: first paint, filters, requests, injection.

    pip install playwright==1.65.2          # the package alone: no `playwright install`
    apt-get install chromium                # or any Chromium, with --chromium PATH
    cargo build --release --bin dag
    python3 scripts/check_page.py [--dag target/release/dag] [--repeats 8] [--characters 8000] [--keep FOLDER] [--pictures FOLDER]

Makes the data itself, from a fixed seed and through real nodes: `dataset` reads made-up problems, as many as GSM8K, MATH-500 and AIME 2025 have (1,849),
`evaluate` puts them to two models behind a server that this script is, REPEATS times each, and `report` makes the page. Thinking is on average
CHARACTERS long, and 32,768 tokens at the most. Thirty of the problems are hostile: their ids, texts, gold answers, thinking and responses, and some labels of the
report, are what breaks pages. A response fails here and there, and one model has no results on most benchmarks.

The bar: first paint within 2 s, a filter within 200 ms (from the key or click to the painted list), a problem within 1 s, no request
but for files beside the page, nothing injected, no error in the console. Ends with 1 where it is not met. With `--keep` the folder stays, and
`--page FOLDER/report/index.html` opens its page again.
"""
import argparse
import asyncio
import json
import os
import pathlib
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")

SIZES = {"gsm8k": 1319, "math-500": 500, "aime25": 30}
PAINT, FILTER, OPEN = 2000, 200, 1000  # milliseconds

HOSTILE = [
    "<script>pwned(1)</script>",
    "</script><script>pwned(2)</script>",
    "</textarea></title></style></script><script>pwned(3)</script>",
    "<img src=x onerror=pwned(4)>",
    "<svg onload=pwned(5)>",
    "<svg><script>pwned(6)</script></svg>",
    "<math><mi xlink:href='javascript:pwned(7)'>x</mi></math>",
    "<iframe srcdoc='<script>parent.pwned(8)</script>'></iframe>",
    "<a href='javascript:pwned(9)'>link</a>",
    "javascript:pwned(10)",
    "\"><script>pwned(11)</script>",
    "' onmouseover='pwned(12)' x='",
    "<!-- <script> --><script>pwned(13)</script>",
    "]]><script>pwned(14)</script>",
    "${pwned(15)} {{pwned(15)}} <%= pwned(15) %>",
    "`);pwned(16);//",
    "\");pwned(17);//",
    "\\\");pwned(18);//",
    "line\u2028separator\u2029pwned(19)",
    "\u202e\u2066right to left\u2069 pwned(20)",
    "null\u0000byte\u0000<script>pwned(21)</script>",
    "\u001b[31mred\u001b[0m \u0007 pwned(22)",
    "\ufeff\u200b\u200d zero width pwned(23)",
    "<style>*{display:none}</style>",
    "<base href='https://example.invalid/'>",
    "<meta http-equiv=refresh content='0;url=https://example.invalid/'>",
    "<link rel=stylesheet href=https://example.invalid/x.css><img src=https://example.invalid/x.png>",
    "$\\href{javascript:pwned(28)}{x}$ \\boxed{</math><script>pwned(28)</script>} $x<img src=x onerror=pwned(28)>$",
    "__proto__",
    "constructor/../../etc%2Fpasswd#x/y?z=1&lt;&#x3c;script&#x3e;",
]
assert len(HOSTILE) == 30

WORDS = (
    "so we have that the sum of two and three is five now let me check this again wait maybe it divides by seven hmm the total "
    "number must be even because each pair counts twice therefore suppose x is the first side then its area would be half of it times height "
    "alternatively try a smaller case for n equals four which gives us twelve okay that matches what was said before"
).split()
FORMULAS = [
    r"$x^2+3x+2=0$", r"\(\frac{a}{b}\)", r"$\sqrt{2}$", r"\[\sum_{k=1}^{n} k = \frac{n(n+1)}{2}\]", r"$\binom{10}{3}=120$",
    r"$$\begin{aligned}a&=b+c\\&=7\end{aligned}$$", r"$f(x)=\begin{cases}1&x>0\\0&x\le 0\end{cases}$", r"$\triangle ABC$",
]


def prose(draw, words):
    return " ".join(draw.choices(WORDS, k=words))


def problems(benchmark):
    draw = random.Random(benchmark)
    for number in range(SIZES[benchmark]):
        gold = str(draw.randrange(1, 1000)) if benchmark != "math-500" or number % 3 else rf"\frac{{{draw.randrange(1, 9)}}}{{{draw.randrange(2, 9)}}}"
        text = f"{prose(draw, 24).capitalize()} {draw.choice(FORMULAS)} {prose(draw, 12)} {draw.choice(FORMULAS)}. It costs $5 and $6. What is it?"
        row = {"id": f"{benchmark}-{number:04}", "problem": text, "answer": gold}
        if benchmark == "aime25":
            hostile = HOSTILE[number]
            row = {"id": hostile, "problem": f"{hostile} {text} {hostile}", "answer": hostile if number % 2 else gold}
        yield row


# Half of what the models are right about follows the problem, half the draw.
SKILL = {"r1": 0.85, "gpt-oss": 0.78, "base": 0.3}


class Server:
    """Two models behind OpenAI's protocol; what they say follows from what they are asked and from the seed."""

    def __init__(self, characters):
        self.characters = characters
        draw = random.Random(7)
        self.corpus = ".\n".join(f"{prose(draw, 14).capitalize()} {draw.choice(FORMULAS)}" for _ in range(40_000))
        self.gold = {row["problem"]: (number, row) for benchmark in SIZES for number, row in enumerate(problems(benchmark))}
        self.ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True).start()
        self.ready.wait()

    async def serve(self):
        server = await asyncio.start_server(self.talk, "127.0.0.1", 0, backlog=2048)
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self.ready.set()
        async with server:
            await server.serve_forever()

    async def talk(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
                status, answer = self.answer(json.loads(await reader.readexactly(length)))
                body = json.dumps(answer).encode()
                writer.write(b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def answer(self, asked):
        number, row = self.gold[asked["messages"][-1]["content"]]
        model, seed = asked["model"], asked["seed"]
        draw = random.Random(f"{model} {row['id']} {seed}")
        if draw.random() < 0.001:
            return b"400 Bad Request", {"error": {"message": "refused", "type": "invalid_request_error"}}
        hard = random.Random(row["id"]).random()
        mean = self.characters * (1 if model == "r1" else 0.25) * (0.3 + 1.4 * hard)
        long = int(draw.lognormvariate(0, 0.6) * mean)
        is_cut = long >= 4 * 32_768
        long = min(long, 4 * 32_768)
        start = draw.randrange(len(self.corpus) - 140_000)
        thinking = self.corpus[start : start + long]
        is_right = draw.random() * 0.5 + (1 - hard) * 0.5 < SKILL[model] * 0.62
        found = row["answer"] if is_right else str(draw.randrange(1000))
        final = f"**Answer.** {prose(draw, 30).capitalize()} {draw.choice(FORMULAS)} {prose(draw, 9)}, so it is $\\boxed{{{found}}}$."
        if number % 17 == 0 and draw.random() < 0.3:
            final = f"{prose(draw, 20).capitalize()}, and I cannot tell."
        if row["id"] in HOSTILE:
            thinking = f"{row['id']} {thinking} {row['id']}"
            final = f"{row['id']} {final} {row['id']}"
        message = {"role": "assistant", "reasoning_content": thinking, "content": None if is_cut else final}
        usage = {"prompt_tokens": 90, "completion_tokens": 32_768 if is_cut else (long + len(final)) // 4}
        return b"200 OK", {"choices": [{"index": 0, "message": message, "finish_reason": "length" if is_cut else "stop"}], "usage": usage}


EXPERIMENT = """
name: page
arms:
  r1: {}
  gpt-oss: {}
axes:
  benchmark:
    gsm8k: {}
    math-500: {}
    aime25: {}
nodes:
  problems:
    over: [benchmark]
    task: dataset
    with: { source: { path: $(benchmark).jsonl } }
  evaluated:
    over: [arm, benchmark]
    task: evaluate
    inputs: { problems: problems }
    with: { model: { backend: openai, name: $(arm) }, repeats: REPEATS }
    run: { base_url: $(env:SERVER), concurrency: 48, allow_failed: 0.05 }
  base_evaluated:
    over: [benchmark]
    task: evaluate
    inputs: { problems: problems }
    with: { model: { backend: openai, name: base }, repeats: 2 }
    run: { base_url: $(env:SERVER), concurrency: 48, allow_failed: 0.05 }
  table:
    task: report
    inputs:
      results: evaluated@*
      base: base_evaluated@aime25
      funnel: [problems@gsm8k, problems@math-500, problems@aime25]
    with:
      title: HOSTILE_TITLE
      note: HOSTILE_NOTE
      base_label: HOSTILE_LABEL
      funnel: [GSM8K, HOSTILE_STEP, AIME]
      RESPONSES
      trace: { file: page.yaml, results: evaluated, base: base_evaluated }
    run: { publish: { report: report } }
"""


def timed(command, folder, environment):
    """Wall seconds, CPU seconds and peak MB of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def make(folder, options):
    for benchmark in SIZES:
        rows = (json.dumps(row) + "\n" for row in problems(benchmark))
        (folder / f"{benchmark}.jsonl").write_text("".join(rows))
    text = EXPERIMENT.replace("REPEATS", str(options.repeats))
    text = text.replace("RESPONSES", f"responses: {options.responses}" if options.responses is not None else "")
    for name, hostile in (("TITLE", HOSTILE[1]), ("NOTE", HOSTILE[3]), ("LABEL", HOSTILE[10]), ("STEP", HOSTILE[26])):
        text = text.replace(f"HOSTILE_{name}", json.dumps(hostile))
    (folder / "page.yaml").write_text(text)
    server = Server(options.characters)
    dag = [options.dag.resolve(), "run", "page.yaml"]
    wall, _, peak = timed([*dag, "evaluated", "base_evaluated@aime25"], folder, {"SERVER": server.address})
    print(f"asked the models: {wall:.0f} s, {peak:.0f} MB at the most")
    _, _, peak = timed([*dag, "table"], folder, {"SERVER": server.address})
    command = [dag[0], "report", "page.yaml", "table", "--json"]
    found = json.loads(subprocess.run(command, cwd=folder, env={**os.environ, "SERVER": server.address}, stdout=subprocess.PIPE, check=True).stdout)
    seconds = next(node["seconds"] for node in found["timings"]["nodes"] if node["node"] == "table")
    print(f"made the report: {seconds:.1f} s; the run that did so took {peak:.0f} MB at the most")


class Check:
    """What is found, and whether it is good enough."""

    def __init__(self):
        self.is_met = True

    def figure(self, what, value, most, unit="ms"):
        is_met = value <= most
        self.is_met &= is_met
        print(f"{'ok ' if is_met else 'BAD'} {what}: {value:.0f} {unit} (at most {most})")

    def holds(self, what, holds, detail=""):
        self.is_met &= bool(holds)
        print(f"{'ok ' if holds else 'BAD'} {what}{'' if holds else f': {detail}'}")


# Resolves once the browser has painted what an action changed, with the milliseconds since it began.
TIMED = """async ([what, ...rest]) => {
  const start = performance.now();
  const done = () => new Promise((painted) => requestAnimationFrame(() => setTimeout(painted)));
  const actions = {
    chip: (name) => [...document.querySelectorAll(".chip")].find((chip) => chip.textContent.startsWith(name)).click(),
    search: (text) => {
      const input = document.querySelector("input[type=search]");
      input.value = text;
      input.dispatchEvent(new Event("input"));
    },
    benchmark: (name) => {
      const select = document.querySelector("select");
      select.value = name;
      select.dispatchEvent(new Event("change"));
    },
  };
  actions[what](...rest);
  await done();
  return performance.now() - start;
}"""


def until(page, holds, *argument):
    """Waits until an expression holds. Playwright's own way to wait evaluates text in the page, which the page's policy refuses."""
    deadline = time.monotonic() + 30
    while not page.evaluate(holds, *argument):
        if time.monotonic() > deadline:
            raise SystemExit(f"waited in vain until {holds}")
        time.sleep(0.002)


def drive(page_path, options):
    from playwright.sync_api import sync_playwright

    check = Check()
    sizes = [file.stat().st_size for file in page_path.parent.rglob("*") if file.is_file()]
    print(f"the report: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB; index.html {page_path.stat().st_size / 1e3:.0f} kB")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox", "--allow-file-access-from-files=false"])
        print(f"Chromium {browser.version}")
        requests, troubles = [], []
        address = page_path.as_uri()

        def opened(**how):
            context = browser.new_context(**how)
            page = context.new_page()
            page.add_init_script("window.injected = []; window.pwned = (number) => window.injected.push(number)")
            page.on("request", lambda request: requests.append(request.url))
            page.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("dialog", lambda dialog: (troubles.append("dialog"), dialog.dismiss()))
            return page

        # First paint, of the report and of the browser behind a link, each time in a browser that has nothing open.
        paints, links = [], []
        for _ in range(5):
            page = opened()
            page.goto(address)
            until(page, "performance.getEntriesByName('first-contentful-paint').length > 0")
            paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            page.context.close()
            page = opened()
            page.goto(f"{address}#gsm8k/gsm8k-0777")
            page.wait_for_selector(".answer .verdict")
            links.append(page.evaluate("performance.now()"))
            page.context.close()
        check.figure("first paint, median of 5", statistics.median(paints), PAINT)
        check.figure("a linked problem is there, median of 5", statistics.median(links), PAINT)

        page = opened(viewport={"width": 1440, "height": 900})
        page.goto(f"{address}#/")
        page.wait_for_selector(".row")
        count = page.evaluate("document.querySelector('.counted').textContent")
        check.holds("all problems are listed", count == f"{sum(SIZES.values()):,} problems", count)
        times = []
        for _ in range(3):
            for action in (["chip", "only r1"], ["chip", "both wrong"], ["chip", "disagree"], ["chip", "truncated"], ["chip", "no answer"],
                           ["chip", "failed"], ["chip", "all"], ["search", "gsm8k-07"], ["search", "smaller case"], ["search", ""],
                           ["benchmark", "math-500"], ["benchmark", ""]):
                if action[0] == "chip" and not page.locator(".chip", has_text=action[1]).count():
                    continue
                times.append((page.evaluate(TIMED, action), action))
        slowest, action = max(times)
        middle = statistics.median(took for took, _ in times)
        check.figure(f"a filter, slowest of {len(times)} ({' '.join(action)}; median {middle:.0f})", slowest, FILTER)
        page.evaluate(TIMED, ["chip", "only r1"])
        wrong = page.evaluate("""() => [...document.querySelectorAll('.row')].filter((row) => {
            const [r1, oss] = [...row.querySelectorAll('.mark')].map((mark) => mark.textContent.split('/').map(Number));
            return !(r1[0] * 2 > r1[1] && !(oss[0] * 2 > oss[1]));
        }).length""")
        check.holds("what a filter leaves is what it says", wrong == 0, f"{wrong} entries are not")
        page.evaluate(TIMED, ["chip", "all"])

        # By the keyboard from problem to problem, each in a block that was not open yet.
        steps = []
        page.keyboard.press("j")
        page.wait_for_selector(".answer .verdict")
        for _ in range(20):
            page.evaluate("location.hash = '#gsm8k/gsm8k-' + String(Math.floor(Math.random() * 1319)).padStart(4, '0')")
            start = time.perf_counter()
            until(page, "() => document.querySelector('.where')?.textContent.includes(decodeURIComponent(location.hash.split('/')[1])) && document.querySelector('.answer .verdict')")
            steps.append(1000 * (time.perf_counter() - start))
        check.figure("a problem at random, slowest of 20", max(steps), OPEN)
        before = page.evaluate("location.hash")
        page.keyboard.press("j")
        until(page, "(before) => location.hash !== before", before)
        page.keyboard.press("t")
        until(page, "document.querySelector('.thinking')?.open && document.querySelector('.thinking .written').textContent.length > 0")
        page.keyboard.press("]")
        until(page, "location.hash.split('/').length === 3")
        page.keyboard.press("/")
        check.holds("the keyboard steps, unfolds, changes samples and searches", page.evaluate("document.activeElement.type === 'search'"))
        check.holds("formulas are drawn", page.evaluate("[...document.querySelectorAll('math')].some((one) => one.getBoundingClientRect().width > 5)"))

        # Every hostile problem: shown as it is written, and nothing comes of it.
        seen = 0
        page.evaluate("document.activeElement.blur()")
        for number, row in enumerate(problems("aime25")):
            page.evaluate("(id) => location.hash = `#aime25/${encodeURIComponent(id)}`", row["id"])
            until(page, "(at) => document.querySelector('.row[aria-selected=true]')?.getAttribute('aria-posinset') == at && document.querySelectorAll('.answer .verdict').length > 0",
                                   str(sum(SIZES.values()) - 30 + number + 1))
            page.wait_for_selector(".answer .verdict")
            start = row["id"].split("\\")[0].split("$")[0][:12].split("\u2028")[0].split("\u0000")[0].split("\u202e")[0].split("\u001b")[0].split("\ufeff")[0]
            # The entry is marked at once, its problem comes with its block.
            is_shown = "(start) => document.querySelector('.problem')?.textContent.startsWith(start)"
            for _ in range(1000):
                if page.evaluate(is_shown, start):
                    seen += 1
                    break
                time.sleep(0.002)
            page.evaluate("for (const one of document.querySelectorAll('.answer *')) one.dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))")
        check.holds("30 hostile problems are shown as they are written", seen == 30, f"{seen} were")
        page.locator(".column input").last.check()
        until(page, "document.querySelectorAll('.answer').length === 3")
        page.evaluate("location.hash = '#gsm8k/gsm8k-0001'")
        until(page, "document.querySelector('.answer:last-child')?.textContent.includes('No results on this benchmark')")
        check.holds("a model without results is shown as such", True)
        check.holds("nothing was injected", page.evaluate("injected.length === 0"), page.evaluate("injected"))
        strange = page.evaluate("""() => [...document.querySelectorAll('script, iframe, img, object, embed, base, link, form, a')].filter((one) =>
            one.tagName === 'SCRIPT' ? one.src || (one.textContent.includes('pwned') && !one.type) : one.tagName !== 'A' || !one.getAttribute('href').startsWith('#')).map((one) => one.outerHTML.slice(0, 80))""")
        check.holds("no element comes from the data", not strange, strange)
        attempt = page.evaluate("""() => { try { document.body.insertAdjacentHTML('beforeend', '<i>x</i>'); return 'inserted'; } catch { return 'refused'; } }""")
        check.holds("the policy refuses text as markup", attempt == "refused", attempt)
        troubles[:] = [trouble for trouble in troubles if "insertAdjacentHTML" not in trouble and "TrustedHTML" not in trouble]

        # The commands.
        page.evaluate("location.hash = '#gsm8k/gsm8k-0001/1'")
        until(page, "document.querySelector('.answer .command code')?.textContent.includes('repeat == 1')")
        command = page.evaluate("document.querySelector('.answer .command code').textContent")
        check.holds("a response has its command", command == "dag trace page.yaml evaluated@r1/gsm8k --where 'id == \"gsm8k-0001\" and repeat == 1'", command)

        own = page_path.parent.as_uri()
        foreign = [url for url in requests if not url.startswith(own)]
        check.holds(f"no request but for the {len(set(requests))} files beside the page", not foreign, foreign[:3])
        check.holds("no error in the console", not troubles, troubles[:5])

        if options.pictures:
            options.pictures.mkdir(parents=True, exist_ok=True)
            views = {"light": ("light", 1440, 900), "dark": ("dark", 1440, 900), "phone": ("light", 390, 844)}
            for name, (scheme, width, height) in views.items():
                page = opened(viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=2 if width < 800 else 1)
                page.goto(address)
                page.screenshot(path=options.pictures / f"report-{name}.png", full_page=True)
                for what, place in (("responses", "#math-500/math-500-0003"), ("hostile", f"#aime25/{'%3Csvg%20onload%3Dpwned(5)%3E'}")):
                    page.goto(f"{address}{place}")
                    page.wait_for_selector(".answer .verdict")
                    page.wait_for_timeout(200)
                    page.screenshot(path=options.pictures / f"{what}-{name}.png")
                page.context.close()
        browser.close()
    return check.is_met


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dag", type=pathlib.Path, default=TARGET / "release/dag")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--characters", type=int, default=8000, help="of thinking, on average, of the longer model; the other has a quarter")
    parser.add_argument("--responses", type=int, help="the report's param of that name")
    parser.add_argument("--keep", type=pathlib.Path, help="work in this folder and leave it")
    parser.add_argument("--page", type=pathlib.Path, help="open this page instead of making one")
    parser.add_argument("--pictures", type=pathlib.Path, help="put screenshots there")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"))
    options = parser.parse_args()
    if options.page:
        sys.exit(0 if drive(options.page.resolve(), options) else 1)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    folder = options.keep or pathlib.Path(tempfile.mkdtemp(prefix="dag-page-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        make(folder, options)
        is_met = drive((folder / "report/index.html").resolve(), options)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if is_met else 1)


if __name__ == "__main__":
    main()
