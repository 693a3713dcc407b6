"""The class kit (docs/teaching) agrees with the course: minutes, names, numbers, commands, keys."""

import re
import shlex
from fractions import Fraction
from pathlib import Path

import pytest

from course_tools.cli import _parser
from course_tools.project import load_project
from course_tools.release.student_tree import student_files
from tests.helpers.exercise_bank import bank
from tests.helpers.kit_boards import board
from tests.helpers.kit_inventory import forms
from tests.helpers.paths import ROOT

KIT = ROOT / "docs" / "teaching"
GUIDES = sorted((KIT / "chapters").glob("*.md"))
CHAPTERS = {chapter.name.split("_")[0].lstrip("0"): chapter for chapter in load_project().chapters}
#: "**name** (1.1, 2.3)": a misconception of those exercises.
NAMED = re.compile(r"\*\*([^*]+)\*\* \((\d\.\d(?:, \d\.\d)*)\)")
#: "| 5 | talk | ...": minutes and kind of a row of a table.
ROW = re.compile(r"^\| (?:(\d+:\d\d) \| )?(\d+) \| ([^|]+) \|", re.MULTILINE)
NUMBER = re.compile(r"\d\.\d")
PARTS = ("Aim", "Timing", "What students get wrong", "On the board", "To discuss")


def text_of(name):
    return (KIT / name).read_text("utf-8")


def minutes_of(numbers):
    return sum(bank().exercises[number].minutes for number in numbers)


def core(chapter=None):
    facts = bank().exercises.values()
    return {f.number for f in facts if f.path == "core" and chapter in (None, f.chapter)}


def guide_of(chapter):
    return (KIT / "chapters" / f"{chapter.name}.md").read_text("utf-8")


# --- the chapter guides --------------------------------------------------------------------------


def test_every_chapter_has_a_guide_with_all_its_parts():
    assert {chapter.name for chapter in CHAPTERS.values()} <= {guide.stem for guide in GUIDES}
    for guide in GUIDES:
        text = guide.read_text("utf-8")
        for part in (*PARTS, "With and without a GPU"):
            assert f"\n## {part}\n" in text, f"{guide.name}: no part {part!r}"
        asked = text.count("<details><summary>")
        assert asked == text.count("</details>") >= 3, guide.name
        (aim,) = re.findall(r"## Aim\n\n(.+?)\n\n## ", text, re.DOTALL)
        assert aim.count(". ") == 0 and "\n" not in aim, f"{guide.name}: one sentence"


@pytest.mark.parametrize("guide", GUIDES, ids=lambda g: g.stem)
def test_the_minutes_of_a_session_are_those_of_the_chapter_and_its_exercises(guide):
    text = guide.read_text("utf-8")
    (timing,) = re.findall(r"## Timing\n(.+?)\n## ", text, re.DOTALL)
    rows = [(int(minutes), kind.strip()) for _, minutes, kind in ROW.findall(timing)]
    (total,) = re.findall(r"\*\*Total: (\d+) minutes\.\*\*", timing)
    assert sum(minutes for minutes, _ in rows) == int(total)
    done = set()
    for minutes, kind in rows:
        if kind.startswith("exercises"):
            assert minutes == minutes_of(NUMBER.findall(kind)), kind
            done |= set(NUMBER.findall(kind))
        else:
            assert kind in ("talk", "read"), kind
    chapter = CHAPTERS.get(guide.stem.split("_")[0].lstrip("0"))
    read = sum(minutes for minutes, kind in rows if kind == "read")
    assert read == chapter.minutes
    number = guide.stem.split("_")[0]
    assert done == (core(int(number)) if number.isdigit() else set()), "the chapter's core path"
    assert f"({guide.parent.name}/{guide.name}) | {total} minutes |" in text_of("README.md")


def test_every_misconception_that_a_page_names_exists():
    for page in sorted(KIT.rglob("*.md")):
        for name, where in NAMED.findall(page.read_text("utf-8")):
            for number in where.split(", "):
                known = {m.name for m in bank().misconceptions[number]}
                assert name in known, f"{page.name}: {number} has no misconception {name!r}"


def test_every_exercise_has_misconceptions_in_its_chapters_guide():
    for number, facts in bank().exercises.items():
        named = NAMED.findall(guide_of(CHAPTERS[str(facts.chapter)]))
        found = [name for name, where in named if number in where.split(", ")]
        assert found, f"the guide of chapter {facts.chapter} names none of {number}"


def test_board_sketches_show_what_the_library_computes():
    seen = 0
    for guide in GUIDES:
        pattern = r"<!-- board: (.+?) -->\n```text\n(.*?)\n```"
        for expression, shown in re.findall(pattern, guide.read_text("utf-8"), re.DOTALL):
            assert shown == board(expression), f"{guide.name}: {expression} gives\n" + board(
                expression
            )
            seen += 1
    assert seen >= 15


def test_every_decimal_and_share_of_a_guide_is_printed_in_its_chapter_or_drawn_on_its_board():
    for guide in GUIDES:
        file = ROOT / "notebooks" / f"{guide.stem}.ipynb"
        text = guide.read_text("utf-8")
        prose = re.sub(r"<!-- board.+?\n```text\n.*?\n```", "", text, flags=re.DOTALL)
        said = set(re.findall(r"(?<![\d.])(?:\d+\.\d{2,}(?![\d.%])|\d+(?:\.\d+)?%)", prose))
        printed = file.read_text("utf-8") if file.exists() else ""
        for number in sorted(said):
            assert number in printed, f"{guide.name}: {number} is not in the chapter"


# --- plans ---------------------------------------------------------------------------------------


def plan(heading):
    (part,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text_of("plans.md"), re.S | re.M)
    return part


def check_kinds(entries):
    """Minutes of every entry (kind, minutes); returns the chapters read and the exercises done."""
    read, done = {}, []
    for kind, minutes in entries:
        if kind.startswith("exercises"):
            numbers = NUMBER.findall(kind)
            assert minutes == minutes_of(numbers), kind
            done += numbers
        elif kind.startswith("read "):
            name = kind.removeprefix("read ")
            read[name] = read.get(name, 0) + minutes
        else:
            assert kind in ("talk", "break", "test", "project"), kind
            assert kind != "test" or minutes == 20, "the inventory takes 20 minutes"
    for name, minutes in read.items():
        assert minutes == CHAPTERS[name].minutes, f"chapter {name}"
    assert len(done) == len(set(done)), "each exercise once"
    return read, set(done)


def check_clock(part):
    """Every row begins when the one above it ends."""
    (end,) = re.findall(r"\*\*Ends at (\d+:\d\d)\.\*\*", part)
    now = None
    for clock, minutes, _ in ROW.findall(part):
        hours, past = map(int, clock.split(":"))
        assert now in (None, 60 * hours + past), f"{clock}: the row above ends at {now}"
        now = 60 * hours + past + int(minutes)
    assert f"{now // 60}:{now % 60:02}" == end


def test_the_day_adds_up():
    part = plan("One day")
    check_clock(part)
    read, done = check_kinds([(kind.strip(), int(m)) for _, m, kind in ROW.findall(part)])
    assert set(read) == {"1", "2", "3", "5", "6"} and done < core()
    assert len(done) == 8


def test_the_week_adds_up_and_holds_the_core_path():
    entries = []
    days = re.split(r"^### ", plan("One week"), flags=re.M)[1:]
    assert len(days) == 5
    for day in days:
        check_clock(day)
        entries += [(kind.strip(), int(m)) for _, m, kind in ROW.findall(day)]
    read, done = check_kinds(entries)
    assert set("1234567") <= set(read) and core() <= done


def test_the_term_adds_up_and_holds_every_exercise():
    weeks = re.findall(r"^\| (\d+) \| (.*) \| (.*) \| (\d+) \|$", plan("A term"), re.M)
    assert [int(week) for week, *_ in weeks] == list(range(1, 13))
    entries = []
    for week, in_class, at_home, total in weeks:
        cells = [
            [(kind, int(m)) for kind, m in re.findall(r"([a-z][^()]*) \((\d+)\)", cell)]
            for cell in (in_class, at_home)
        ]
        assert sum(m for _, m in cells[0]) == 90, f"week {week}"
        assert sum(m for _, m in cells[1]) == int(total), f"week {week}"
        entries += [*cells[0], *cells[1]]
        bold = set(re.findall(r"\*\*(\d\.\d)\*\*", in_class + at_home))
        assert bold == core() & set(NUMBER.findall(in_class + at_home)), f"week {week}"
    _, done = check_kinds(entries)
    assert done == set(bank().exercises)


def core_table():
    """The table of `core_and_stretch.md`, from the exercises' metadata."""
    facts = list(bank().exercises.values())
    lines = [
        "| Exercise | Title | Path | Points | Minutes | Difficulty |",
        "|---|---|---|---|---|---|",
    ]
    for f in facts:
        path = f"**{f.path}**" if f.path == "core" else f.path
        cells = (f.number, f.title, path, f.points, f.minutes, f.difficulty)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    for path in ("core", "stretch"):
        mine = [f for f in facts if f.path == path]
        points, minutes = sum(f.points for f in mine), sum(f.minutes for f in mine)
        lines.append(f"| | {len(mine)} exercises | {path} | {points} | {minutes} | |")
    return "\n".join(lines)


def test_core_and_stretch_are_those_of_the_exercises():
    assert core_table() in text_of("core_and_stretch.md"), f"expected\n{core_table()}"


def test_there_is_a_question_to_ask_aloud_for_each_exercise():
    rows = re.findall(
        r"^\| (\d\.\d) \| .+\? \| .+ \|$|^\| (\d\.\d) \| ", text_of("language_models.md"), re.M
    )
    assert [a or b for a, b in rows] == list(bank().exercises)


# --- the concept inventory -----------------------------------------------------------------------


def options(form):
    """Letter -> text, for each item of a form as students read it."""
    text = text_of(f"concept_inventory_form_{form}.md")
    items = re.split(r"^## \d+$", text, flags=re.M)[1:]
    found = [dict(re.findall(r"^- \*\*([a-d])\.\*\* (.+)$", item, re.M)) for item in items]
    return [{letter: shown.strip("`") for letter, shown in item.items()} for item in found]


def key():
    """Item -> its chapter, the right letters, and the misconception behind each other letter."""
    row = r"^\| (\d+) \| [^|]+ \| (\d) \| ([a-d]) \| ([a-d]) \| (.+) \|$"
    thought = r"\*\*([^*]+)\*\* \((\d\.\d)\): ([a-d]), ([a-d])"
    return {
        int(item): (int(chapter), {"a": a, "b": b}, re.findall(thought, cell))
        for item, chapter, a, b, cell in re.findall(row, text_of("concept_inventory.md"), re.M)
    }


@pytest.mark.parametrize("form", ["a", "b"])
def test_the_key_of_the_inventory_is_computed_and_every_wrong_option_is_a_misconception(form):
    shown, answers = options(form), key()
    assert len(shown) == len(answers) == len(forms()[form]) == 10
    for number, (item, letters) in enumerate(zip(forms()[form], shown, strict=True), 1):
        _, right, thoughts = answers[number]
        assert list(letters) == list("abcd") and len(set(letters.values())) == 4
        assert letters[right[form]] == item.right, f"item {number}: {item.right}"
        behind = {(e, name): {"a": a, "b": b}[form] for name, e, a, b in thoughts}
        assert {thought: letters[letter] for thought, letter in behind.items()} == item.wrong
        for exercise, name in behind:
            assert name in {m.name for m in bank().misconceptions[exercise]}


def test_no_letter_of_the_inventory_is_right_far_more_often_than_another():
    for form in "ab":
        right = [letters[form] for _, letters, _ in key().values()]
        assert {right.count(letter) for letter in "abcd"} <= {2, 3}


@pytest.mark.parametrize("form", ["a", "b"])
def test_the_questions_state_the_data_that_the_key_was_computed_from(form):
    text = text_of(f"concept_inventory_form_{form}.md")
    stems = re.split(r"^## \d+$", text, flags=re.M)[1:]
    for number, (item, stem) in enumerate(zip(forms()[form], stems, strict=True), 1):
        assert item.stem
        for fragment in item.stem:
            assert fragment in stem, f"form {form}, item {number}: {fragment!r}"


@pytest.mark.parametrize("form", ["a", "b"])
def test_a_form_for_students_holds_no_key(form):
    text = text_of(f"concept_inventory_form_{form}.md")
    assert not re.search(
        r"answer key|right letter|misconception|correct|<!--|<details", text.lower()
    )
    assert not NAMED.search(text)
    assert text.isascii(), "a page made of it names no encoding"


def test_the_example_of_the_gain_is_computed():
    text = text_of("concept_inventory.md")
    pre, post = map(int, re.search(r"goes from (\d+) to (\d+) percent", text).groups())
    gain = Fraction(post - pre, 100 - pre)
    assert f"g = {post - pre} / {100 - pre} = {float(gain):.2f}" in text


# --- commands and files --------------------------------------------------------------------------


def commands():
    for page in sorted(KIT.rglob("*.md")):
        for block in re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            for line in block.splitlines():
                yield page.name, shlex.split(line, comments=True)


def test_every_course_command_of_the_kit_is_one_that_the_program_knows(capsys):
    seen = 0
    for page, words in commands():
        if words and Path(words[0]).name == "course":
            try:
                _parser().parse_args(words[1:])
            except SystemExit:
                raise AssertionError(
                    f"{page}: {' '.join(words)}: {capsys.readouterr().err}"
                ) from None
            seen += 1
    assert seen >= 10


def test_files_that_the_kit_names_are_there():
    place = re.compile(r"`((?:solutions|tests|notebooks|exercises|course_lib|docs)/[\w./]+)`")
    seen = 0
    for page in sorted(KIT.rglob("*.md")):
        for path in place.findall(page.read_text("utf-8")):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
            seen += 1
    assert seen >= 10


def test_students_get_nothing_of_the_kit():
    files = student_files(load_project(ROOT))
    assert not [path for path in files if "teaching" in Path(path).parts]
    words = ("concept inventory", "concept_inventory", "What students get wrong", "normalised gain")
    for path, content in files.items():
        text = content.decode("utf-8", "replace")
        for secret in words:
            assert secret not in text, f"{path} speaks of {secret!r}"
