"""The report in headless Chromium, where it is installed: CI does so, and runs this."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from fwp_rl.reports.page import write_report
from fwp_rl.reports.records import read_records

from .conftest import MakeRun

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PROBE = """<script>
const errors = [];
addEventListener("error", event => errors.push(String(event.message)), true);
addEventListener("load", () => {
  const images = [...document.images].map(i => i.complete && i.naturalWidth > 0);
  const requests = performance.getEntriesByType("resource").map(r => r.name);
  const shown = [...document.images].map(i => i.getBoundingClientRect().width);
  parent.postMessage(JSON.stringify({
    errors, images, requests: requests.filter(name => !name.startsWith("data:")),
    width: innerWidth, content: document.documentElement.scrollWidth,
    text: parseFloat(getComputedStyle(document.body).fontSize), shown: Math.min(...shown),
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


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(width: int, browser: str, tmp_path: Path, make_run: MakeRun) -> None:
    for core in ("delta_net", "lstm", "recurrent_delta_net"):
        for seed in (1, 2):
            make_run(core, seed=seed, score=seed / 3)
            make_run(core, "Breakout", seed=seed, score=4.0 * seed)
    page = write_report(read_records([tmp_path / "runs"]), tmp_path / "report", title="A title")
    page.with_name("probed.html").write_text(page.read_text().replace("<title>", PROBE + "<title>"))
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.replace("WIDTH", str(width)))
    command = [
        *(browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,1600"),
        "--virtual-time-budget=5000",
    ]
    dom = subprocess.run(
        [*command, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120
    ).stdout
    found = re.search(r'<pre id="probe">(.*?)</pre>', dom, flags=re.DOTALL)
    assert found, dom[-2000:]
    result = json.loads(html.unescape(found[1]))
    assert result["errors"] == []
    assert result["requests"] == []
    assert len(result["images"]) == 4
    assert all(result["images"])
    assert result["content"] <= result["width"] == width  # nothing to scroll sideways
    assert result["text"] >= 16
    assert result["shown"] >= 400  # figures keep a size at which their text can be read

    picture = tmp_path / "screen.png"
    subprocess.run(
        [*command, f"--screenshot={picture}", frame.as_uri()], capture_output=True, timeout=120
    )
    with Image.open(picture) as screen:
        colors = screen.convert("RGB").crop((0, 0, width, 1600)).getcolors(1 << 24)
    assert colors is not None
    background = max(count for count, _ in colors)
    assert 0.02 < 1 - background / (width * 1600) < 0.9  # neither blank nor all covered
