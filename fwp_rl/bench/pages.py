"""``fwp-rl bench tables``: the tables of a page, made anew from the results that it names.

    <!-- tables of benchmarks/ppo.json -->
    whatever stands here is replaced
    <!-- end of tables -->

The path is relative to the page. ``, without details`` after it leaves the longer tables out.
"""

import re
from pathlib import Path

from fwp_rl.bench.sheets import SHEETS
from fwp_rl.config import ConfigError
from fwp_rl.runs.files import write_file
from fwp_rl.runs.json_files import read_json

__all__ = ["render", "write_tables"]

_PLACE = re.compile(
    r"(<!-- tables of (?P<file>[^\n,]+?)(?P<short>, without details)? -->\n)"
    r".*?(<!-- end of tables -->)",
    re.DOTALL,
)


def write_tables(page: Path) -> list[str]:
    """Replace the tables of a Markdown page; returns the results that it names and that are not
    there yet. ConfigError where it names none, or one that is no result of ours."""
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no text"
        raise ConfigError(f"{page}: cannot be read: {reason}") from None
    new, missing = render(text, page)
    if new != text:
        write_file(page, new.encode())
    return missing


def render(text: str, page: Path) -> tuple[str, list[str]]:
    """The text of a page with its tables as the results have them, and the results that are not
    there."""
    missing: list[str] = []

    def tables(found: re.Match[str]) -> str:
        file = found["file"]
        try:
            result = read_json(page.parent / file)
        except FileNotFoundError:
            missing.append(file)
            return f"{found[1]}\nNot measured yet.\n\n{found[4]}"
        if result.get("benchmark") not in SHEETS:
            raise ConfigError(
                f"{page}: {file} is no result of fwp-rl bench {', '.join(SHEETS)} --output"
            )
        sheets = SHEETS[result["benchmark"]](result)
        kept = [sheet for sheet in sheets if not (sheet.detail and found["short"])]
        made = "\n".join(sheet.markdown() for sheet in kept)
        machine = result["machine"]
        source = f"{machine['processor']}, {machine['cores']} cores, {result['date'][:10]}"
        if result["commit"]:
            source += f", commit {result['commit'][:7]}{' and changes' * bool(result['dirty'])}"
        return f"{found[1]}\n{made}\n{source}: [{file}]({file}).\n\n{found[4]}"

    new, places = _PLACE.subn(tables, text)
    if not places:
        raise ConfigError(f"{page}: has no place for tables, <!-- tables of FILE.json -->")
    return new, missing
