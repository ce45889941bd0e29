"""The report in headless Chromium, where it is installed: CI does so, and runs this."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fwp_rl.reports.page import write_report
from fwp_rl.reports.records import read_records

from .conftest import MakeRun, rows

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PROBE = """<script>
const errors = [];
addEventListener("error", event => {
  errors.push(String(event.message));
  parent.postMessage(JSON.stringify({ errors }), "*");
}, true);
addEventListener("securitypolicyviolation", event => errors.push(event.violatedDirective));
addEventListener("load", () => {
  const images = [...document.images].map(i => i.complete && i.naturalWidth > 0);
  const requests = performance.getEntriesByType("resource").map(r => r.name);
  // what is clipped is for those who listen
  const beyond = [...document.querySelectorAll("main *")].filter(e =>
    e.getBoundingClientRect().right > innerWidth + 1 && !e.closest("thead"));
  const small = [...document.querySelectorAll("main *, svg text")].filter(e =>
    e.childNodes.length && e.textContent.trim() && parseFloat(getComputedStyle(e).fontSize) < 12);
  const panel = document.querySelector(".panel");
  const plot = panel.querySelector(".plot");
  const said = () => plot.getAttribute("aria-valuetext");
  const lines = () => plot.querySelectorAll("polyline").length;
  const press = key => plot.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const values = { before: said() };
  plot.focus();
  press("Home");
  values.home = said();
  values.focused = document.activeElement === plot;
  const box = plot.getBoundingClientRect();
  const at = { clientX: box.right - 2, clientY: box.top + 50, bubbles: true };
  plot.dispatchEvent(new PointerEvent("pointermove", at));
  values.pointed = said();
  values.read = [...panel.querySelectorAll(".value")].map(e => e.textContent);
  const button = panel.querySelector(".series button");
  values.lines = [lines()];
  button.click();
  values.lines.push(lines());
  values.pressed = [...document.querySelectorAll(".series button")].map(b =>
    b.querySelector(".name").textContent + ": " + b.getAttribute("aria-pressed"));
  values.off = said();
  button.click();
  values.lines.push(lines());
  parent.postMessage(JSON.stringify({
    errors, images, values, requests: requests.filter(name => !name.startsWith("data:")),
    width: innerWidth, content: document.documentElement.scrollWidth,
    beyond: beyond.map(e => e.outerHTML.slice(0, 200)),
    small: small.map(e => e.outerHTML.slice(0, 200)),
    text: parseFloat(getComputedStyle(document.body).fontSize),
    names: [...document.querySelectorAll(".name")].map(e => e.innerHTML),
  }), "*");
});
</script>"""
# in a frame, for a browser's own window cannot be as narrow as a phone
FRAME = """<!doctype html><title>frame</title><body style="margin: 0"><script>
addEventListener("message", event => {
  const result = document.createElement("pre");
  result.id = "probe";
  result.textContent = event.data;
  document.body.append(result);
});
</script><iframe src="probed.html" width="WIDTH" height="1600" style="border: 0"></iframe>"""


@pytest.fixture
def browser() -> str:
    if BROWSER is None:
        if "FWP_RL_REQUIRE_BROWSER" in os.environ:
            pytest.fail(f"none of {', '.join(NAMES)} is installed")
        pytest.skip("needs Chromium")
    return BROWSER


def probe(browser: str, page: Path, width: int, picture: Path) -> dict[str, Any]:
    """What the page comes to in a window of that width, and a picture of its beginning."""
    text, policies = re.subn(
        r"script-src 'sha256-[^']+'", "script-src 'unsafe-inline'", page.read_text()
    )
    assert policies == 1
    page.with_name("probed.html").write_text(text.replace("<title>", PROBE + "<title>"))
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.replace("WIDTH", str(width)))
    command = [
        *(browser, *FLAGS, f"--user-data-dir={page.parent / 'profile'}"),
        *("--window-size=1280,1600", "--virtual-time-budget=5000"),
    ]
    dom = subprocess.run(
        [*command, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120
    ).stdout
    found = re.search(r'<pre id="probe">(.*?)</pre>', dom, flags=re.DOTALL)
    assert found, dom[-2000:]
    # the page as it is written: its own policy lets its own script run
    frame.write_text(FRAME.replace("WIDTH", str(width)).replace("probed.html", page.name))
    subprocess.run(
        [*command, f"--screenshot={picture}", frame.as_uri()], capture_output=True, timeout=120
    )
    result: dict[str, Any] = json.loads(html.unescape(found[1]))
    return result


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(width: int, browser: str, tmp_path: Path, make_run: MakeRun) -> None:
    for core in ("delta_net", "lstm", "recurrent_delta_net"):
        for seed in (1, 2):
            make_run(core, seed=seed, score=seed / 3)
            make_run(core, "Breakout", seed=seed, score=4.0 * seed)
    for seed in (1, 2):
        make_run("gru", seed=seed, folder=tmp_path / "named", discount=0.5 + seed / 10)
    paths = [tmp_path / "runs", f"<img>{' long' * 20}={tmp_path / 'named'}"]
    page = write_report(read_records(paths), tmp_path / "report", title="A title")
    result = probe(browser, page, width, tmp_path / "screen.png")
    assert result["errors"] == []
    assert result["requests"] == []
    assert result["images"] == [True], "the aggregates; what else there is, the page draws"
    assert result["content"] <= result["width"] == width  # nothing to scroll sideways
    assert result["beyond"] == []
    assert result["small"] == []
    assert result["text"] >= 16
    assert any(name.startswith("&lt;img&gt; long") for name in result["names"]), "labels are text"

    values = result["values"]
    task = rows(page.parent, "curves")[0]["task"]
    curves = [row for row in rows(page.parent, "curves") if row["task"] == task]
    labels = list(dict.fromkeys(row["variant"] for row in curves))
    for label in labels:
        of_label = [row for row in curves if row["variant"] == label]
        for said, row in (("pointed", of_label[-1]), ("before", of_label[-1])):
            assert f"{label} {float(row['value']):.4g}".replace("-", "−") in values[said], said
    assert values["focused"]
    assert values["home"].startswith("at 0")
    low, high = (f"{float(curves[-1][end]):.4g}".replace("-", "−") for end in ("lowest", "highest"))
    assert f"{low} to {high}, 2 runs" in values["read"][len(labels) - 1]
    assert values["lines"] == [len(labels), len(labels) - 1, len(labels)]
    assert f" {labels[0]} " not in values["off"].replace(":", " ")
    switched = [state for state in values["pressed"] if state.startswith(f"{labels[0]}: ")]
    assert "true" not in " ".join(switched[:2]), "in every panel of the figure"

    with Image.open(tmp_path / "screen.png") as screen:
        colors = screen.convert("RGB").crop((0, 0, width, 1600)).getcolors(1 << 24)
    assert colors is not None
    background = max(count for count, _ in colors)
    assert 0.02 < 1 - background / (width * 1600) < 0.9  # neither blank nor all covered
