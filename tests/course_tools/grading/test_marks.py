"""What teachers and students read, from made-up results, and six notebooks graded for real."""

import csv
import html
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from html.parser import HTMLParser

import pytest

from course_tools import cli
from course_tools.exercise_bank.evaluate import UNREADABLE
from course_tools.grading import command
from course_tools.grading.feedback import feedback, gradescope
from course_tools.grading.file_names import file_names
from course_tools.grading.marks import write_marks
from course_tools.grading.results import (
    FAILED,
    GRADED,
    UNSAFE,
    About,
    ClaimResult,
    ExerciseResult,
    Result,
    Store,
    by_student,
    write_whole,
)
from course_tools.grading.tables import harmless, summary
from course_tools.sandbox.backends import Bubblewrap
from tests.helpers.exercise_bank import bank
from tests.helpers.made_class import made_class, write

ABOUT = About(
    "seed", "bubblewrap", "no network", "limits by cgroup", ("notes.md: left out",),
    "https://github.com/OWNER/course", "v1",
)  # fmt: skip
UNSAFE_RUN = replace(ABOUT, sandbox="unsafe")
#: What students and platforms might put anywhere.
EVIL = ['=HYPERLINK("http://x")', "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1"]
EVIL += [";=1+1;", "a; @SUM(A1)", "|-1"]
EVIL += ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a,b\nc", "'--", "&amp;"]


def result(student, shares, chapter=2, **more):
    """A result with a share of the points for each exercise of a chapter."""
    numbers = [n for n, f in bank().exercises.items() if f.chapter == chapter]
    exercises = tuple(
        exercise(number, share) for number, share in zip(numbers, shares, strict=False)
    )
    fields = {
        "key": student, "student": student, "name": student, "ids": {}, "file": f"{student}.ipynb",
        "chapter": chapter, "status": GRADED, "seed": 1, "sandbox": "bubblewrap", "seconds": 1.0,
        "exercises": exercises,
    }  # fmt: skip
    return Result(**fields | more)


def exercise(number, share, **more):
    facts = bank().exercises[number]
    wrong = None if share == 1 else "row 3 is wrong, where you return 0.5"
    fields = {
        "number": number, "title": facts.title, "answer": facts.answer,
        "points": float(facts.points), "earned": facts.points * share, "status": GRADED,
        "claims": (ClaimResult("holds for any n", 1.0, wrong),),
        "misconception": "" if share == 1 else "polarity inverted",
        "advice": "" if share == 1 else "Your mask says what is *blocked*: `~mask`.",
        "again": bank().visible[number].again,
    }  # fmt: skip
    return ExerciseResult(**fields | more)


def failed(student, status, **more):
    return result(student, [], chapter=None, status=status, **more)


def table(path):
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def write_all(out, results, about=ABOUT):
    return write_marks(out, results, bank(), about)


# --- tables --------------------------------------------------------------------------------------


def test_grades_have_a_row_for_each_student_and_a_column_for_each_exercise(tmp_path):
    results = [
        result("kim", [1, 0.5, 0, 1, 1, 1], ids={"canvas": "71"}, superseded=("old.ipynb",)),
        result("kim", [1, 1, 1, 1, 1, 1], chapter=5, ids={"canvas": "71"}, file="five.ipynb"),
        failed("lee", "cut off", ids={"canvas": "72"}),
        failed("kim", "no exercise of this course was found in it", file="scratch.ipynb"),
        result("Ámos", [1] * 6, late=True),
    ]
    write_all(tmp_path, results)
    rows = {row["student"]: row for row in table(tmp_path / "grades.csv")}
    assert list(rows) == ["kim", "lee", "Ámos"]
    kim, lee = rows["kim"], rows["lee"]
    assert [kim[f"2.{i} (of {p})"] for i, p in ((1, 1), (2, 2), (3, 2))] == ["1", "1", "0"]
    assert (kim["total"], kim["out of"], kim["canvas"]) == ("26", "29", "71")
    assert kim["status"].startswith("graded; replaces old.ipynb; scratch.ipynb: no exercise")
    assert (lee["total"], lee["2.1 (of 1)"], lee["status"]) == ("", "", "cut off")
    assert (rows["Ámos"]["status"], rows["Ámos"]["5.1 (of 2)"]) == ("graded, late", "")


def test_canvas_and_moodle_get_the_columns_and_numbers_that_they_import(tmp_path):
    results = [
        result("kim_71", [1] * 6, ids={"canvas": "71"}),
        result("lee_72", [0] * 6, ids={"moodle": "72"}, name="Lee, Ann"),
        result("lee_72", [1] * 6, ids={"moodle": "72"}, name="Lee, Ann", chapter=5),
        failed("bo_73", "cut off", ids={"moodle": "73"}),
    ]
    write_all(tmp_path, results)
    points, kim = table(tmp_path / "grades_canvas.csv")
    assert list(kim)[:5] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
    assert (points["Student"], points["Chapter 2 exercises"]) == ("Points Possible", "11")
    assert (kim["ID"], kim["Chapter 2 exercises"], kim["Chapter 5 exercises"]) == ("71", "11", "")
    (lee,) = table(tmp_path / "grades_moodle_2.csv")
    assert (lee["Identifier"], lee["Full name"]) == ("Participant 72", "Lee, Ann")
    assert (lee["Grade"], lee["Maximum Grade"]) == ("0", "11")
    assert table(tmp_path / "grades_moodle_5.csv")[0]["Grade"] == "18"
    write_all(tmp_path / "one", results[1:2])
    assert table(tmp_path / "one" / "grades_moodle.csv")[0]["Grade"] == "0"
    assert not (tmp_path / "one" / "grades_canvas.csv").exists()


def test_items_tell_how_hard_an_exercise_was_and_what_people_thought(tmp_path):
    # 2.1 separates the strong from the weak, 2.2 does the opposite, 2.3 nobody solved.
    shares = [(1, 0, 0, 1, 1, 1)] * 3 + [(0, 1, 0, 0, 0, 0)] * 3
    write_all(tmp_path, [result(f"s{i}", one) for i, one in enumerate(shares)])
    rows = {row["exercise"]: row for row in table(tmp_path / "items.csv")}
    assert rows["2.1"]["facility"] == "0.50" and float(rows["2.1"]["discrimination"]) > 0.9
    assert float(rows["2.2"]["discrimination"]) < -0.9
    assert (rows["2.3"]["facility"], rows["2.3"]["discrimination"]) == ("0.00", "")
    assert rows["2.3"]["misconceptions"] == "polarity inverted (6)"


def test_an_exercise_that_was_skipped_counts_for_nobody(tmp_path):
    skipped = exercise("2.1", 1, points=0.0, earned=0.0, status="skipped", note="lacks triton")
    one = result("kim", [1] * 6)
    write_all(tmp_path, [replace(one, exercises=(skipped, *one.exercises[1:]))])
    (row,) = table(tmp_path / "grades.csv")
    assert (row["2.1 (of 1)"], row["total"], row["out of"]) == ("", "10", "10")
    assert table(tmp_path / "items.csv")[0]["students"] == "0"


@pytest.mark.parametrize("evil", EVIL)
def test_no_cell_is_a_formula_and_no_text_becomes_a_tag(tmp_path, evil):
    one = replace(
        exercise("2.1", 0), misconception=evil, advice=evil, seen=(evil,), note=evil, title=evil,
        claims=(ClaimResult(evil, 1.0, evil),),
    )  # fmt: skip
    results = [
        result(evil, [1] * 6, file=evil, ids={"canvas": evil, "moodle": evil, "email": evil},
               exercises=(one,), superseded=(evil,)),
        failed("x" + evil, evil, file=evil),
    ]  # fmt: skip
    write_all(tmp_path, results, replace(ABOUT, problems=(evil,)))
    for path in tmp_path.glob("*.csv"):
        for row in csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline="")):
            for cell in row:
                assert not re.match(r"\s*[=+\-@\uff1d]", cell) or re.fullmatch(r"-[\d.]+", cell)
                assert not set(cell) & set("\t\r\n")
                assert not re.search(r"[;|]\s*[=+\-@]", cell)
    for page in (tmp_path / "feedback").glob("*.html"):
        parser = _Tags()
        parser.feed(page.read_text("utf-8"))
        assert not parser.tags & {"script", "img", "iframe", "link", "object", "svg"}
        assert not any(name.startswith("on") for name in parser.names)


class _Tags(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.names, self.addresses = set(), set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}
        self.addresses += [value for name, value in attrs if name in ("href", "src")]


if shutil.which("soffice"):  # LibreOffice, where it is installed

    def test_a_spreadsheet_sees_every_name_as_text_and_no_formula(tmp_path):
        names = [
            "Müller, Jörg",
            'Bo "B" Ek',
            "李小龍",
            "=1+1",
            "+49 170",
            "-1+1",
            "@SUM(A1)",
            "\t=1",
        ]
        results = [
            result(name, [1, 1 / 3, 0, 1, 1, 1], name=name, ids={"canvas": f"0{i}"})
            for i, name in enumerate(names)
        ]
        write_all(tmp_path, results)
        for table_ in ("grades.csv", "grades_canvas.csv"):
            command_ = ["soffice", f"-env:UserInstallation=file://{tmp_path}/office", "--headless"]
            command_ += ["--infilter=CSV:44,34,76,1,,0,false,true", "--convert-to", "xlsx"]
            command_ += ["--outdir", str(tmp_path), str(tmp_path / table_)]
            subprocess.run(command_, check=True, capture_output=True, timeout=100)
            with zipfile.ZipFile((tmp_path / table_).with_suffix(".xlsx")) as book:
                sheet = book.read("xl/worksheets/sheet1.xml").decode()
                texts = html.unescape(book.read("xl/sharedStrings.xml").decode())
            assert "<f" not in sheet.replace("<formatting", "")
            for name in names:
                assert f">{harmless(name)}<" in texts


def test_ordinary_cells_stay_as_they_are():
    assert [harmless(cell) for cell in ("kim", "0.5", "a = b", "")] == ["kim", "0.5", "a = b", ""]
    assert [harmless(cell) for cell in ("-1.5", "-1-1", "+1")] == ["-1.5", "'-1-1", "'+1"]


# --- pages ---------------------------------------------------------------------------------------


def page(one, about=ABOUT):
    (student,) = by_student([one])
    return feedback(student, about)


def test_a_page_names_the_thought_and_what_to_read_and_stands_alone():
    text = page(result("kim", [1, 0, 1, 1, 1, 1]))
    assert "This looks like: polarity inverted." in text
    assert "<em>blocked</em>: <code>~mask</code>" in text
    assert 'Read again: "' in html.unescape(text) and "9 of 11 points" in text
    assert text.count("Read again") == 1
    parser = _Tags()
    parser.feed(text)
    assert not parser.addresses and "url(" not in text
    linked = page(result("kim", [0] * 6), replace(ABOUT, address="https://github.com/uni/course"))
    assert 'href="https://github.com/uni/course/blob/v1/notebooks/02_tril_mask.ipynb#' in linked


def test_one_cause_is_said_once_and_no_word_of_the_sandbox():
    claims = tuple(ClaimResult(f"holds for n = {n}", 0.25, "row 3 sees the future") for n in "1234")
    one = result("kim", [], exercises=(exercise("2.1", 0, claims=claims),))
    shown = gradescope(one, ABOUT)
    for text in (page(one), shown["output"] + shown["tests"][0]["output"]):
        assert text.count("row 3 sees the future") == 1 and text.count("As above.") == 3
        assert not re.search("sandbox|bubblewrap|cgroup", text, re.IGNORECASE)


def test_half_a_letter_in_an_error_stops_no_table(tmp_path):
    one = exercise("2.1", 0, seen=("it stops with E: \ud800",), note="\udc80")
    write_all(tmp_path, [result("kim", [], exercises=(one,))])
    assert "It stops with E: ?" in (tmp_path / "feedback" / "kim.html").read_text("utf-8")
    assert table(tmp_path / "grades.csv")[0]["student"] == "kim"


def test_a_judges_own_error_is_not_shown_to_students():
    one = exercise("2.1", 0, claims=(ClaimResult("c", 1.0, f"{UNREADABLE} (E: expected 42)"),))
    text = page(result("kim", [], exercises=(one,)))
    assert UNREADABLE in text and "42" not in text


def test_every_output_of_an_unsafe_run_says_so(tmp_path):
    results = [
        result("kim", [1] * 6, ids={"canvas": "71", "moodle": "71"}),
        failed("lee", "cut off", ids={"moodle": "72"}),
    ]
    write_all(tmp_path, results, UNSAFE_RUN)
    files = [path for path in tmp_path.rglob("*.*") if path.is_file()]
    assert len(files) == 9
    for path in files:
        assert "UNSAFE" in path.read_text("utf-8") or '"unsafe": true' in path.read_text("utf-8")
    assert UNSAFE in summary(results, UNSAFE_RUN)
    write_all(tmp_path / "safe", results)
    for path in (tmp_path / "safe").rglob("*.*"):
        assert path.is_dir() or "UNSAFE" not in path.read_text("utf-8")


def test_gradescope_reads_a_score_for_each_exercise():
    found = gradescope(result("kim", [1, 0.5, 0, 1, 1, 1]), ABOUT)
    assert found["score"] == 8.0 == sum(test["score"] for test in found["tests"])
    assert [test["status"] for test in found["tests"][:2]] == ["passed", "failed"]
    assert "polarity inverted" in found["tests"][1]["output"]
    nothing = gradescope(failed("lee", "cut off"), ABOUT)
    assert (nothing["score"], nothing["tests"]) == (0, []) and "cut off" in nothing["output"]


# --- files ---------------------------------------------------------------------------------------


def test_file_names_are_safe_and_no_two_are_alike():
    names = ["kim", "Kim", "KIM ", "../../etc/passwd", "..", "", "李 明", "李 光", "Žofie", "con"]
    names += [
        "nul.txt",
        "x" * 300,
        "x" * 299 + "y",
        "a/b",
        "a\\b",
        "a\0b",
        "-rf",
        ".hidden",
        "\ud800",
    ]
    files = file_names(names)
    assert len({file.casefold() for file in files.values()}) == len(names)
    for file in files.values():
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}", file), file
        assert file.lower() not in ("con", "nul")
    assert file_names(["lee"]) == {"lee": "lee"}
    assert file_names(["李 明"])["李 明"] == files["李 明"]  # the same in every run


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    target = tmp_path / "grades.csv"
    write_whole(target, "old")
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_whole(target, "new")
    assert target.read_text("utf-8") == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_result_survives_the_disk_and_a_broken_file_is_graded_anew(tmp_path):
    one, store = result("kim", [1, 0.5, 0, 1, 1, 1], superseded=("a",)), Store(tmp_path)
    store.save(one)
    stored = store.load("kim")
    assert json.dumps(asdict(stored)) == json.dumps(asdict(one)) and stored.earned == one.earned
    (tmp_path / "submissions" / "kim.json").write_text('{"key": "kim"', "utf-8")
    assert store.load("kim") is None


# --- for real ------------------------------------------------------------------------------------

CHOSEN = ("wronga", "straystan", "cutcara", "twicetom", "brokenbo")


def test_only_leaves_other_chapters_out_of_all_tables(tmp_path, capsys, monkeypatch):
    write(tmp_path / "in", [o for o in made_class() if o.file.startswith(("abel", "diaz", "cut"))])
    asked = []

    def not_run(grader, submissions, out, jobs):
        asked.extend(submissions)
        return [failed(s.student, "not run") for s in submissions]

    monkeypatch.setattr(command, "grade_all", not_run)
    words = ["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--unsafe"]
    assert cli.main([*words, "--only", "5"]) == 1
    assert [s.student for s in asked] == ["cutcara_150", "diazdora_104"]
    assert "notebooks of other chapters, as --only says: 1" in capsys.readouterr().out
    assert len(table(tmp_path / "out" / "grades.csv")) == 2


def test_a_late_file_into_the_same_folder_adds_and_replaces_and_takes_nothing_away(
    tmp_path, capsys, monkeypatch
):
    store = Store(tmp_path / "out")
    for one in (
        result("abelanna_101", [0] * 6, key="a2"), result("abelanna_101", [1] * 6, 5, key="a5"),
        result("kim_71", [1] * 6, 6, key="k6"), failed("lee_72", "cut off", key="l"),
    ):  # fmt: skip
        store.save(one)
    write(tmp_path / "in", [one for one in made_class() if one.file.startswith("abel")])
    again = result("abelanna_101", [1] * 6)
    monkeypatch.setattr(command, "grade_all", lambda *a: [again])
    words = ["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--unsafe"]
    assert cli.main([*words, "--only", "2"]) == 1  # lee's is still not graded
    rows = {row["student"]: row for row in table(tmp_path / "out" / "grades.csv")}
    assert list(rows) == ["abelanna_101", "kim_71", "lee_72"]
    assert rows["abelanna_101"]["2.1 (of 1)"] == "1" and rows["abelanna_101"]["total"] == "29"
    assert rows["lee_72"]["status"] == "cut off"


def test_failures_and_skips_are_tried_again_and_grades_are_not():
    skipped = exercise("2.1", 1, points=0.0, earned=0.0, status="skipped", note="lacks triton")
    assert result("kim", [1] * 6).is_final and failed("kim", "cut off").is_final
    assert not result("kim", [], exercises=(skipped,)).is_final
    assert not failed("kim", f"{FAILED} (MemoryError)").is_final


def test_wrong_use_says_what_was_expected(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for words, sentence in (
        (["nothing"], "no such folder"),
        ([str(tmp_path / "in")], "there is no notebook in it"),
        ([str(tmp_path / "in"), "--only", "99"], "expected chapters among"),
        ([str(tmp_path / "in"), "--jobs", "0"], "expected at least 1; got 0"),
    ):
        assert cli.main(["grade", *words, "--out", str(tmp_path / "out")]) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    sys.platform != "linux" or Bubblewrap().missing() is not None, reason="needs bubblewrap"
)
def test_a_small_class_is_graded_fairly_and_a_second_run_only_reads(tmp_path, capsys, monkeypatch):
    made = [one for one in made_class() if one.file.startswith(CHOSEN)]
    write(tmp_path / "in", made)
    words = ["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--seed", "a class"]
    monkeypatch.setattr(command, "choose", lambda unsafe, *closed: Bubblewrap())  # no self-test
    assert cli.main([*words, "--jobs", "2"]) == 1  # one is cut off
    assert "1 not graded" in capsys.readouterr().out
    everything = {n: f.points for n, f in bank().exercises.items() if f.chapter == 2}
    data = json.loads((tmp_path / "out" / "details.json").read_text("utf-8"))
    found = {one["file"]: one for one in data["submissions"]}
    for one in made:
        if one.about == "replaced":
            assert one.file not in found
            continue
        graded = {e["number"]: e for e in found[one.file]["exercises"]}
        right = {n for n, e in graded.items() if e["earned"] == everything[n]}
        assert right == (one.right or set()), one.about
        assert {n: graded[n]["misconception"] for n in one.thoughts} == one.thoughts
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").rglob("*.*") if p.is_file()}
    shutil.rmtree(tmp_path / "out" / "feedback")
    monkeypatch.setattr("course_tools.grading.grade.Session", None)  # nothing is run again
    assert cli.main([*words, "--jobs", "1"]) == 1
    assert {
        p.name: p.read_bytes() for p in (tmp_path / "out").rglob("*.*") if p.is_file()
    } == before
    assert cli.main([*words[:-1], "another class"]) == 2
    assert "expected a class" in capsys.readouterr().err
