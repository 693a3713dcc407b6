"""Submissions as platforms give them: who handed in what, and what is refused, and why."""

import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from course_tools.grading import reader
from course_tools.grading.platforms import unique
from course_tools.grading.read_notebook import (
    Cell,
    NotANotebookError,
    read_cells,
    read_notebook,
)
from course_tools.grading.reader import Reader, UnreadableError
from course_tools.grading.submissions import find_submissions, known_notebooks
from tests.helpers.exercise_bank import bank
from tests.helpers.made_class import (
    accepted,
    as_file,
    blank,
    code,
    filled,
    made_class,
    stripped,
    write,
)
from tests.helpers.paths import ROOT

GOOD = as_file(filled(2, accepted(2, 1)))
FIVE = as_file(filled(5, accepted(5, 0)))
BLANK = as_file(blank(2))
LESSON = (ROOT / "notebooks" / "02_tril_mask.ipynb").read_bytes()
KNOWN = known_notebooks(bank())
MOODLE = "_assignsubmission_file_"


def lay(folder, files):
    """Write files; a path that ends in .zip gets a dict of what is in it."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zipped(data) if isinstance(data, dict) else data)
    return folder


def zipped(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            data = zipped(data) if isinstance(data, dict) else data
            file.writestr(name, data)
    return stream.getvalue()


def find(*sources, **options):
    return find_submissions(sources, bank(), **options)


def who(found):
    return {s.student: dict(s.ids) for s in found.submissions}


def chapters(found):
    return {s.student: s.chapter or s.status for s in found.submissions}


# --- platforms -----------------------------------------------------------------------------------


def test_the_made_class_is_found_as_canvas_gives_it(tmp_path):
    made = made_class()
    write(tmp_path, made)
    found = find(tmp_path)
    assert not found.problems
    by_file = {s.file: s for s in found.submissions}
    assert by_file.keys() == {one.file for one in made if one.about != "replaced"}
    for one in made:
        if one.about == "replaced":
            continue
        submission = by_file[one.file]
        assert submission.ids["canvas"] == submission.student.rpartition("_")[2]
        if one.right is not None:
            assert (submission.status, submission.chapter is None) == ("", False), one.about
        else:
            assert one.status in submission.status, one.about
        assert submission.late == ("LATE" in one.file)
    twice = by_file["twicetom_143_9243_02_tril_mask-1.ipynb"]
    assert twice.superseded == ("twicetom_143_9143_02_tril_mask.ipynb",)
    assert twice.attempt == 2


@pytest.mark.parametrize(
    "name",
    ["अनुष्काशर्मा", "বেগমরহিমা", "นภาพรสุขใจ", "தமிழ்செல்வன்", "nguyễnthịánh", "O'Neil-Smith", "ab(cd)"],
)
def test_canvas_names_keep_their_number_in_every_script(tmp_path, name):
    (one,) = find(lay(tmp_path, {f"{name}_4711_99887_a.ipynb": GOOD})).submissions
    assert (one.ids, one.student) == ({"canvas": "4711"}, f"{name}_4711")


@pytest.mark.parametrize("name", ["anon_AbCdx_99887_a", "anonymous_LATE_AbCdx_99887_a"])
def test_canvas_anonymous_names_give_no_students_number(tmp_path, name):
    (one,) = find(lay(tmp_path, {f"{name}.ipynb": GOOD})).submissions
    assert (one.student, one.ids) == ("anonymous_AbCdx", {"canvas_anonymous": "AbCdx"})
    assert one.late == ("LATE" in name)


@pytest.mark.parametrize("in_folders", [True, False])
def test_moodle_names_students_by_folder_or_by_file(tmp_path, in_folders):
    slash = "/" if in_folders else ""
    names = ["Žofie  Nováková-Ó Briain", "李 明", "Ann_Lee"]
    files = {f"{n}_{70 + i}{MOODLE}{slash}hw 2.ipynb": GOOD for i, n in enumerate(names)}
    lay(tmp_path, {"class.zip": files})
    found = find(tmp_path / "class.zip")
    assert [s.name for s in found.submissions] == ["Ann_Lee", names[0].replace("  ", " "), "李 明"]
    assert {s.ids["moodle"] for s in found.submissions} == {"70", "71", "72"}
    assert all(s.chapter == 2 and not s.status for s in found.submissions)


def test_moodle_teams_are_not_participants(tmp_path):
    files = {f"Team 7_12{MOODLE}/a.ipynb": GOOD, f"Default group{MOODLE}/b.ipynb": GOOD}
    found = find(lay(tmp_path, files), teams=True)
    assert who(found) == {"Team 7_12": {}, "Default group": {}}
    assert all(s.team for s in found.submissions)


def test_gradescope_names_the_submitters_of_a_folder_also_of_a_group(tmp_path):
    metadata = (
        b"---\nsubmission_11:\n  :submitters:\n  - :name: Ann Lee\n    :sid: '7001'\n"
        b"    :email: ann@example.edu\n  - :name: \"Bo O'Neil\"\n    :sid: '7002'\n"
        b"    :email: bo@example.edu\n  :created_at: 2026-11-20 10:00:00.5 +01:00\n  :score: 3.0\n"
        b"  :history:\n  - :id: 9\n    :created_at: 2026-11-19 10:00:00\n    :submitters:\n"
        b"    - :name: Old Partner\n      :sid: '1'\n"
    )
    files = {
        "export/submission_metadata.yml": metadata,
        "export/submission_11/x.ipynb": GOOD,
        "export/submission_12/x.ipynb": GOOD,
        # A student's own file of this name says nothing about who the student is.
        "export/submission_12/submission_metadata.yml": metadata.replace(b"_11", b"_12"),
    }
    found = find(lay(tmp_path, files) / "export")
    assert who(found) == {
        "Ann Lee_7001": {"gradescope": "11", "sid": "7001", "email": "ann@example.edu"},
        "Bo O'Neil_7002": {"gradescope": "11", "sid": "7002", "email": "bo@example.edu"},
        "submission_12": {"gradescope": "12"},
    }
    assert found.submissions[0].time == 1795165200.0  # 2026-11-20 09:00 UTC
    with pytest.raises(ValueError, match="looks like a platform's download itself"):
        find(tmp_path)
    (tmp_path / "export.zip").write_bytes(zipped(files))
    assert who(find(tmp_path / "export.zip")) == who(found)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "submission_1: &a\n  submitters: *a\n",
        "x: " + "{a: " * 20_000,
        "a\tb: [",
        "3",
    ],
)
def test_gradescopes_file_may_be_anything(tmp_path, text):
    files = {"submission_metadata.yml": text.encode(), "submission_1/a.ipynb": GOOD}
    assert who(find(lay(tmp_path, files))) == {"submission_1": {"gradescope": "1"}}


def test_a_repository_given_to_gradescope_is_its_exercises(tmp_path):
    files = {
        "repo/notebooks/02_tril_mask.ipynb": LESSON,
        "repo/exercises/02_tril_mask.ipynb": GOOD,
        "repo/exercises/05_kv_cache.ipynb": as_file(blank(5)),
        "repo/README.md": b"# mine",
    }
    found = find(lay(tmp_path, files), one_student="submission")
    assert [(s.student, s.chapter) for s in found.submissions] == [("submission", 2)]


@pytest.mark.parametrize("inside", ["submitted", ""])
def test_nbgrader_names_students_by_folder_and_tells_the_time(tmp_path, inside):
    base = f"{inside}/" if inside else ""
    files = {
        f"{base}lee/ps2/hw.ipynb": GOOD,
        f"{base}lee/ps2/timestamp.txt": b"2026-11-22 15:58:23.948203 UTC",
        f"{base}kim/ps2/hw.ipynb": FIVE,
        f"{base}kim/ps2/.ipynb_checkpoints/hw-checkpoint.ipynb": GOOD,
    }
    root = tmp_path / ("class" if inside else "submitted")
    found = find(lay(root, files))
    assert who(found) == {"kim": {"nbgrader": "kim"}, "lee": {"nbgrader": "lee"}}
    assert [s.chapter for s in found.submissions] == [5, 2]
    assert found.submissions[1].time == 1795363103.0


def test_brightspace_and_blackboard_say_who_and_when(tmp_path):
    files = {
        "13394-80551 - Eric Gil - Mar 29, 2026 1205 PM/05.ipynb": FIVE,
        "13394-80551 - Eric Gil - Mar 30, 2026 905 AM/05 - new.ipynb": FIVE,
        "13395-80551 - Žofie K - Mar 29, 2026 1205 PM - my - file.ipynb": GOOD,
        "HW 2_jdoe_attempt_2026-11-20-10-05-33_a_victim_attempt_b.ipynb": GOOD,
        "HW 2_jdoe_attempt_2026-11-20-10-05-33.txt": b"Name: J Doe",
        "index.html": b"<html>",
    }
    found = find(lay(tmp_path, files))
    assert who(found) == {
        "Eric Gil_13394": {"brightspace": "13394"},
        "Žofie K_13395": {"brightspace": "13395"},
        "jdoe": {"blackboard": "jdoe"},
    }
    assert not found.problems
    eric = found.submissions[0]
    assert "905 AM" in eric.file and eric.attempt == 2 and len(eric.superseded) == 1
    assert all(s.time for s in found.submissions)


def test_github_classrooms_folders_are_users(tmp_path):
    files = {f"hw-2-{n}/{n}.ipynb": GOOD for n in ("octo-cat", "lee")}
    files["hw-2-lee/.git/config"] = b""
    found = find(lay(tmp_path / "hw-2-submissions", files))
    assert who(found) == {"lee": {"github": "lee"}, "octo-cat": {"github": "octo-cat"}}


def test_plain_files_are_students_by_their_name_and_folders_by_theirs(tmp_path):
    files = {
        "lee.ipynb": GOOD,
        "hw_2026_05_kim.ipynb": GOOD,
        "park/my final version.ipynb": GOOD,
        "choi.zip": {"Copy of 02_tril_mask (1).ipynb": GOOD},
        "han.ipynb.txt": GOOD,
        "ida/saved.json": GOOD,
        "jan/saved.txt": GOOD,
        "pia/report.pdf": b"%PDF",
        "notes.md": b"to do",
    }
    found = find(lay(tmp_path, files))
    students = ["choi", "han", "hw_2026_05_kim", "ida", "jan", "lee", "park"]
    assert {s.student: s.chapter for s in found.submissions if not s.status} == dict.fromkeys(
        students, 2
    )
    assert chapters(found)["pia"] == "no notebook, but report.pdf"
    assert found.problems == ("notes.md: not a notebook, left out",)


def test_names_that_look_alike_are_two_students(tmp_path):
    lay(
        tmp_path,
        {"lee.ipynb": GOOD, "lee .ipynb": GOOD, "Lee.ipynb": GOOD, "l\u200bee.ipynb": GOOD},
    )
    names = [s.student for s in find(tmp_path).submissions]
    assert len(set(names)) == 4 and "lee" in names
    assert unique("a\tb") != unique("a b") == "a b"


# --- one student's files speak for nobody else ---------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_nothing_inside_a_students_folder_or_archive_names_another(tmp_path, packed):
    forged = b"submission_1:\n  submitters:\n  - name: Lee\n    sid: '1'\n"
    inside = {
        "submitted/lee/x/06_prefix_lm.ipynb": FIVE,
        "submission_metadata.yml": forged,
        "submission_1/x.ipynb": FIVE,
        f"Lee_1{MOODLE}/x.ipynb": FIVE,
        "lee_71_905_a.ipynb": FIVE,
        "lee.zip": {"lee.ipynb": FIVE},
    }
    lay(tmp_path, {"lee.ipynb": GOOD})
    lay(
        tmp_path,
        {"mallory.zip": inside}
        if packed
        else {f"mallory/{n}": d for n, d in inside.items() if isinstance(d, bytes)},
    )
    found = find(tmp_path)
    assert chapters(found) == {"lee": 2, "mallory": 5}
    assert packed or any("taken as one student's" in problem for problem in found.problems)


def test_dates_inside_a_students_archive_decide_nothing(tmp_path):
    late = zipfile.ZipInfo("a.ipynb", (2099, 1, 1, 0, 0, 0))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr(late, GOOD)
        file.writestr("timestamp.txt", "2099-01-01 00:00:00 UTC")
    lay(tmp_path, {"submitted/kim/ps2/a.zip": stream.getvalue(), "submitted/kim/ps2/b.ipynb": GOOD})
    os.utime(tmp_path / "submitted" / "kim" / "ps2" / "a.zip", (1, 1))
    (one,) = find(tmp_path).submissions
    assert one.file == "submitted/kim/ps2/b.ipynb" and one.time is None


def test_an_uploaded_name_cannot_speak_for_another_student(tmp_path):
    files = {
        f"Mal Lory_66{MOODLE}Vic Tim_77{MOODLE}x.ipynb": GOOD,
        f"Mal Lory_66{MOODLE}/submitted/victim/ps2/y.ipynb": FIVE,
        f"Mal Lory_66{MOODLE}/victim_77_9001_z.zip": {f"Vic Tim_77{MOODLE}/a.ipynb": GOOD},
    }
    assert who(find(lay(tmp_path, files))) == {"Mal Lory_66": {"moodle": "66"}}


# --- which notebook counts -----------------------------------------------------------------------


def test_a_lesson_is_never_an_answer(tmp_path):
    """The whole course folder, handed in with the lessons newer than the exercises."""
    lay(tmp_path, {"lee/exercises/02_tril_mask.ipynb": GOOD})
    lay(tmp_path, {"lee/notebooks/02_tril_mask.ipynb": LESSON, "kim.ipynb": LESSON})
    lay(tmp_path, {"pia.ipynb": as_file(stripped(json.loads(LESSON)))})
    os.utime(tmp_path / "lee" / "exercises" / "02_tril_mask.ipynb", (1, 1))
    found = find(tmp_path)
    wrong = "this is the lesson 02_tril_mask, not its exercises: exercises/02_tril_mask.ipynb"
    assert chapters(found) == {"lee": 2, "kim": wrong, "pia": wrong}
    (lee,) = (s for s in found.submissions if s.student == "lee")
    assert lee.file == "lee/exercises/02_tril_mask.ipynb"


def test_every_lesson_is_known_again():
    for file in sorted((ROOT / "notebooks").rglob("[0-9A-Z]*_*.ipynb")):
        if ".ipynb_checkpoints" not in file.parts:
            found = read_notebook(file.read_bytes(), KNOWN)
            assert (found.chapter, found.lesson) == (None, file.stem)
    for file in sorted((ROOT / "exercises").glob("*.ipynb")):
        assert read_notebook(file.read_bytes(), KNOWN).chapter == int(file.stem[:2])


def test_of_several_notebooks_the_one_with_answers_counts_then_the_latest(tmp_path):
    lay(tmp_path, {"kim_71_901_a.ipynb": GOOD, "kim_71_902_a-1.ipynb": BLANK})
    (one,) = find(tmp_path).submissions
    assert (one.file, one.attempt) == ("kim_71_901_a.ipynb", 1)
    assert one.superseded == ("kim_71_902_a-1.ipynb",)
    lay(tmp_path, {"lee_72_901_a.ipynb": BLANK})
    assert chapters(find(tmp_path))["lee_72"] == 2, "a blank one alone is one"


def test_a_single_notebook_or_zip_file_will_do_and_nothing_else(tmp_path):
    lay(tmp_path, {"lee.ipynb": GOOD, "class.zip": {"kim.ipynb": GOOD}, "x.txt": b""})
    assert list(who(find(tmp_path / "lee.ipynb"))) == ["lee"]
    assert list(who(find(tmp_path / "class.zip"))) == ["kim"]
    assert not find(tmp_path / "x.txt").submissions
    data = bytearray((tmp_path / "class.zip").read_bytes())
    data[data.index(b"PK\x01\x02") + 1] = 0
    (tmp_path / "class.zip").write_bytes(data)
    with pytest.raises(ValueError, match="damaged zip file"):
        find(tmp_path / "class.zip")
    with pytest.raises(FileNotFoundError):
        find(tmp_path / "nothing")


def test_the_latest_of_a_student_and_chapter_counts_by_time_attempt_or_suffix(tmp_path):
    names = ["kim_71_905_a.ipynb", "kim_71_905_a-1.ipynb", "kim_71_905_a-10.ipynb"]
    names += ["kim_71_905_a-2.ipynb", "kim_71_904_b-99.ipynb"]
    lay(tmp_path / "c", dict.fromkeys(names, GOOD) | {"kim_71_903_c.ipynb": FIVE})
    last, five = find(tmp_path / "c").submissions
    assert last.file == "kim_71_905_a-10.ipynb"
    assert last.superseded == (names[3], names[1], names[0], names[4])
    assert (last.attempt, five.attempt) == (5, 1)
    for moment, folder in ((2, "ps2"), (1, "ps2-late")):
        path = tmp_path / "n" / "submitted" / "kim" / folder / "hw.ipynb"
        lay(path.parent, {path.name: GOOD})
        os.utime(path, (moment, moment))
    (last,) = find(tmp_path / "n").submissions
    assert last.file == "submitted/kim/ps2/hw.ipynb"


def test_what_cannot_be_read_replaces_nothing(tmp_path):
    lay(tmp_path, {"kim_71_905_a.ipynb": GOOD, "kim_71_906_a-1.ipynb": GOOD[:500]})
    found = {s.file: s for s in find(tmp_path).submissions}
    assert not found["kim_71_905_a.ipynb"].superseded
    assert found["kim_71_906_a-1.ipynb"].status.startswith("cut off")


# --- hostile files -------------------------------------------------------------------------------


def test_links_are_not_followed_in_folders_and_in_zip_files(tmp_path):
    secret = lay(tmp_path / "secret", {"victim.ipynb": GOOD})
    folder = lay(tmp_path / "in", {"lee.ipynb": GOOD})
    (folder / "file.ipynb").symlink_to(secret / "victim.ipynb")
    (folder / "folder").symlink_to(secret)
    os.mkfifo(folder / "pipe.ipynb")
    link = zipfile.ZipInfo("link.ipynb")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(folder / "z.zip", "w") as file:
        file.writestr(link, str(secret / "victim.ipynb"))
    found = find(folder)
    assert {s.file: s.status for s in found.submissions} == {
        "lee.ipynb": "",
        "pipe.ipynb": "not an ordinary file",
        "z.zip": "link.ipynb: a link, not followed",
    }
    assert sorted(p for p in found.problems if "a link, not followed" in p) == [
        "file.ipynb: a link, not followed",
        "folder: a link, not followed",
    ]


def test_paths_that_leave_a_zip_file_are_left_out(tmp_path):
    bad = ["../up.ipynb", "/etc/abs.ipynb", "a/../../b.ipynb", "..\\win.ipynb", "C:\\c.ipynb"]
    lay(tmp_path, {"class.zip": {name: GOOD for name in [*bad, "fine.ipynb"]}})
    found = find(tmp_path / "class.zip")
    assert [s.file for s in found.submissions] == ["fine.ipynb"]
    assert len(found.problems) == len(bad)
    assert all("a path that leaves" in problem for problem in found.problems)
    assert not list(tmp_path.parent.rglob("up.ipynb"))


def test_bombs_are_refused_and_the_rest_go_on(tmp_path):
    nested = {"deep.ipynb": GOOD}
    for _ in range(5):
        nested = {"inner.zip": nested}
    rows = {f"{i}.ipynb": os.urandom(900_000) + bytes(45_000_000) for i in range(6)}
    files = {
        "a_71_9001_bomb.ipynb": GOOD,
        "b_72_9002_ratio.zip": {"02_tril_mask.ipynb": b" " * 15_000_000},
        "c_73_9003_deep.zip": nested,
        "d_74_9004_large.zip": rows,
        "e_75_9005_many.zip": {f"{i}.md": b"" for i in range(2_100)} | {"x.ipynb": GOOD},
        "f_76_9006_broken.zip": b"PK\x03\x04 broken",
    }
    found = find(lay(tmp_path, {"class.zip": files}) / "class.zip")
    statuses = {}
    for submission in found.submissions:
        statuses.setdefault(submission.student, []).append(submission.status)
    assert statuses["a_71"] == [""]
    assert "zip bomb" in statuses["b_72"][0]
    assert "too many zip files" in statuses["c_73"][0]
    assert sum("too much in all" in status for status in statuses["d_74"]) == 2
    assert "entries, at most" in statuses["e_75"][0]
    assert "damaged zip file" in statuses["f_76"][0]


def test_a_size_that_lies_and_an_entry_that_is_damaged_are_statuses(tmp_path):
    data = bytearray(zipped({"kim_71_9001_a.ipynb": GOOD, "lee_72_9002_a.ipynb": GOOD}))
    data[60:70] = b"\xff" * 10  # inside the first entry's bytes
    where = data.rindex(b"PK\x01\x02")  # the directory's line on the second entry
    data[where + 24 : where + 28] = struct.pack("<I", 10)  # says that it is 10 bytes long
    (tmp_path / "class.zip").write_bytes(bytes(data))
    found = find(tmp_path / "class.zip")
    assert [bool(s.status) for s in found.submissions] == [True, True]


def test_an_encrypted_entry_is_a_status(tmp_path):
    data = bytearray(zipped({"kim_71_9001_a.ipynb": GOOD}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    (tmp_path / "class.zip").write_bytes(bytes(data))
    (one,) = find(tmp_path / "class.zip").submissions
    assert one.status == "it is encrypted"


def test_names_in_old_encodings_are_read_and_no_name_passes_for_another(tmp_path):
    info = zipfile.ZipInfo("x" * 18)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr(info, GOOD)
    name = "José_é 李.ipynb".encode()
    assert len(name) == 18
    (tmp_path / "utf.zip").write_bytes(stream.getvalue().replace(b"x" * 18, name))
    assert list(who(find(tmp_path / "utf.zip"))) == ["José_é 李"]
    (tmp_path / "lee.ipynb").write_bytes(GOOD)
    (tmp_path / "gnp.\u202ebpyni.ipynb").write_bytes(GOOD)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xfcller.ipynb")).write_bytes(GOOD)
    found = find(tmp_path)
    names = [s.student for s in found.submissions]
    assert len(set(names)) == 4 and "lee" in names
    assert any(name.startswith("müller") for name in names)
    for text in (*names, *(s.file for s in found.submissions)):
        text.encode()
        assert not set(text) & set("\u200b\u202e\n\r\t")


# --- what is read is read in a limited process ---------------------------------------------------


def test_a_damaged_archive_of_any_kind_is_a_status_and_the_rest_go_on(tmp_path):
    methods = [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    for number, method in enumerate(methods):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as file:
            file.writestr("a.ipynb", GOOD)
        data = bytearray(stream.getvalue())
        data[80:120] = bytes(40)
        (tmp_path / f"s{number}.zip").write_bytes(bytes(data))
    (tmp_path / "lee.ipynb").write_bytes(GOOD)
    found = chapters(find(tmp_path))
    assert found.pop("lee") == 2
    assert len(found) == 3 and all("damaged in its zip file" in wrong for wrong in found.values())


HOSTILE = {
    "blanks after a syntax error": as_file({"cells": [code("x = (\n" + " " * 180_000)]}),
    "item assignments": as_file({"cells": [code("".join(f"a[{i}]=%x\n" for i in range(2_000)))]}),
    "f-strings": as_file({"cells": [code("f'" + "{x}" * 130_000 + "'")]}),
    "empty objects": b'{"cells": [' + b"{}," * 6_600_000 + b"{}]}",
    "deep": b'{"cells": ' + b"[" * 20_000_000,
    "many names": as_file({"cells": [code(f"x{i}=x{i + 1};" * 40) for i in range(120)]}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_one_hostile_notebook_costs_little_and_only_itself(tmp_path, what, monkeypatch):
    """Sizes and shapes that once froze the grader, or took .8 GB of its memory."""
    start = reader._START.replace(" main()", " main.__globals__.update(CPU_SECONDS=2); main()")
    monkeypatch.setattr(reader, "_START", start)
    lay(tmp_path, {"kim.ipynb": GOOD, "mallory.ipynb": HOSTILE[what], "zoe.ipynb": GOOD})
    before = resident()
    found = chapters(find(tmp_path))
    assert (found["kim"], found["zoe"]) == (2, 2)
    assert isinstance(found["mallory"], str)
    assert resident() - before < 100


def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("VmRSS")) / 1000


def test_a_reader_that_loops_dies_or_talks_too_much_is_an_error_and_starts_again(
    tmp_path, monkeypatch
):
    (tmp_path / "lee.ipynb").write_bytes(GOOD)
    start = (
        "import sys; sys.path[:0] = [{root!r}]\n"
        "from course_tools.grading import reader_child, archives\n"
        "reader_child.CPU_SECONDS, reader_child.MAX_ANSWER = 1, 10**5\n"
        "def read(source, names, known):\n"
        "    if names == ['loop']:\n        while True: pass\n"
        "    if names == ['die']:\n        import os; os.abort()\n"
        "    if names == ['shape']:\n        return [{{'file': 1}}]\n"
        "    if names == ['talk']:\n        return 'x' * 10**6\n"
        "    if names == ['eat']:\n        return bytearray(10**10)\n"
        "    return []\n"
        "archives.read_files = read\nreader_child.main()"
    )
    monkeypatch.setattr("course_tools.grading.reader._START", start)
    with Reader(tmp_path, KNOWN) as limited:
        for name, wrong in (
            ("loop", "takes too long"), ("die", "cannot be read"), ("shape", "KeyError"),
            ("talk", "too much in it"), ("eat", "too much memory"),
        ):  # fmt: skip
            with pytest.raises(UnreadableError, match=wrong):
                limited.read([name])
            assert limited.read(["good"]) == []
        monkeypatch.setattr("course_tools.grading.reader._SECONDS", 0.3)
        with pytest.raises(UnreadableError, match="takes too long"):
            limited.read(["loop"])
        monkeypatch.setattr("course_tools.grading.reader._SECONDS", 30)
        assert limited.read(["good"]) == []


def test_too_large_a_notebook_says_how_to_make_it_smaller(tmp_path, monkeypatch):
    notebook = filled(2, accepted(2, 1))
    notebook["cells"][0]["attachments"] = "x" * 51_000_000
    (tmp_path / "lee.ipynb").write_bytes(as_file(notebook))
    assert "clear the outputs" in chapters(find(tmp_path))["lee"]
    notebook["cells"][0]["attachments"] = "x" * 30_000_000
    (tmp_path / "lee.ipynb").write_bytes(as_file(notebook))
    assert chapters(find(tmp_path))["lee"] == 2


def test_the_folder_of_results_is_not_handed_in(tmp_path):
    lay(tmp_path, {"lee.ipynb": GOOD, "out/old.ipynb": GOOD})
    assert list(who(find(tmp_path, leave_out=[tmp_path / "out"]))) == ["lee"]


# --- notebooks -----------------------------------------------------------------------------------


def test_every_encoding_and_format_gives_the_same_cells():
    want = read_cells(GOOD)
    notebook = json.loads(GOOD)
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"):
        assert read_cells(json.dumps(notebook).encode(encoding)) == want, encoding
    assert len(want) > 10


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", "an empty file"),
        (b"%PDF-1.4", "a PDF"),
        (b"PK\x03\x04", "a zip file"),
        (b"<html>", "a web page"),
        (b"import numpy", "some other text"),
        (b"[1, 2]", "no cells"),
        (b'{"a": 1}', "no cells"),
        (b'{"cells": 3}', "no cells"),
        (b'{"cells": []}', "without cells"),
        (GOOD[:3000], "cut off"),
        (GOOD[:3000] + b"\x00\xff" + GOOD[3000:], "damaged"),
        (b'{"cells":' + b"[" * 200_000, "RecursionError"),
        (b'{"cells": ' + b"9" * 5000 + b"}", "ValueError"),
        (zlib.compress(GOOD), "some other text"),
    ],
)
def test_what_is_no_notebook_says_what_it_is(data, status):
    with pytest.raises(NotANotebookError, match=status):
        read_cells(data)


def test_malformed_cells_are_passed_over():
    cells = [
        None, 3, "x", [], {}, {"cell_type": 7, "source": 1}, {"cell_type": "code"},
        {"cell_type": "code", "source": ["a = 1\n", None, "b = '\ud800'"], "metadata": [1]},
    ]  # fmt: skip
    data = json.dumps({"cells": cells}).encode()
    nothing = Cell(is_code=False, source="")
    coded = [Cell(is_code=True, source=""), Cell(is_code=True, source="a = 1\nb = '?'")]
    assert read_cells(data) == (nothing, nothing, *coded)
    assert read_notebook(data, KNOWN).chapter is None


def test_the_chapter_comes_from_metadata_else_names_else_titles():
    def chapter(notebook):
        return read_notebook(as_file(notebook), KNOWN).chapter

    good = filled(2, {})
    assert chapter(good) == 2
    assert chapter(stripped(good)) == 2
    assert chapter(stripped(filled(5, {}))) == 5
    cell = {"cell_type": "code", "source": "MATRIX = 1\ncached_outputs = 2"}
    assert chapter({"cells": [cell]}) == 2
    title = {"cell_type": "markdown", "source": "## 5.1 One token at a time"}
    assert chapter({"cells": [cell, title]}) == 5
    assert chapter({"cells": [{"cell_type": "code", "source": "x = 1"}]}) is None


def test_an_answer_is_there_done_missing_or_unreadable():
    answers = accepted(2, 1) | {"2.2": "def causal_mask(n:\n  pass"}
    del answers["2.3"]
    found = read_notebook(as_file(filled(2, answers)), KNOWN).answers
    assert {n for n, a in found.items() if a.done} == {"2.1", "2.4", "2.5", "2.6"}
    assert found["2.2"].source is None and found["2.2"].wrong.startswith("SyntaxError in line 1")
    assert "NotImplementedError" in found["2.3"].source
