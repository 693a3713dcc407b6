"""Submissions as platforms give them: who handed in what, and what is refused, and why."""

import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from course_tools.grading import submissions
from course_tools.grading.read_notebook import Cell, NotANotebookError, chapter_of, read_cells
from course_tools.grading.submissions import find_submissions
from tests.helpers.exercise_bank import bank
from tests.helpers.made_class import accepted, as_file, filled, made_class, stripped, write

GOOD = as_file(filled(2, accepted(2, 1)))
FIVE = as_file(filled(5, accepted(5, 0)))
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


def find(folder, **options):
    return find_submissions(folder, bank(), **options)


def who(found):
    return {s.student: dict(s.ids) for s in found.submissions}


# --- platforms -----------------------------------------------------------------------------------


def test_the_made_class_is_found_as_canvas_gives_it(tmp_path):
    made = made_class()
    write(tmp_path, made)
    found = find(tmp_path)
    assert not found.problems
    by_file = {s.file: s for s in found.submissions}
    assert by_file.keys() == {one.file for one in made}
    for one in made:
        submission = by_file[one.file]
        assert submission.ids["canvas"] == submission.student.rpartition("_")[2]
        if one.right is not None or one.about == "replaced":
            assert (submission.status, submission.chapter is None) == ("", False), one.about
        elif one.about != "another notebook":
            assert one.status in submission.status, one.about
        assert submission.late == ("LATE" in one.file)
        assert submission.replaced == (one.about == "replaced")
    assert by_file["twicetom_143_9243_02_tril_mask-1.ipynb"].superseded == (
        "twicetom_143_9143_02_tril_mask.ipynb",
    )


@pytest.mark.parametrize("in_folders", [True, False])
def test_moodle_names_students_by_folder_or_by_file(tmp_path, in_folders):
    slash = "/" if in_folders else ""
    names = ["Žofie  Nováková-Ó Briain", "李 明", "Ann_Lee"]
    files = {f"{n}_{70 + i}{MOODLE}{slash}hw 2.ipynb": GOOD for i, n in enumerate(names)}
    found = find(lay(tmp_path, {"week/class.zip": files}))
    assert [s.name for s in found.submissions] == ["Ann_Lee", names[0].replace("  ", " "), "李 明"]
    assert {s.ids["moodle"] for s in found.submissions} == {"70", "71", "72"}
    assert all(s.chapter == 2 and not s.status for s in found.submissions)


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
    found = find(lay(tmp_path, files))
    assert who(found) == {
        "Ann Lee_7001": {"gradescope": "11", "sid": "7001", "email": "ann@example.edu"},
        "Bo O'Neil_7002": {"gradescope": "11", "sid": "7002", "email": "bo@example.edu"},
        "submission_12": {"gradescope": "12"},
    }
    assert found.submissions[0].time == 1795165200.0  # 2026-11-20 09:00 UTC


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


def test_plain_files_are_students_by_their_name_or_their_folder(tmp_path):
    files = {
        "lee.ipynb": GOOD,
        "hw_2026_05_kim.ipynb": GOOD,
        "hw_2026_05_lim.ipynb": GOOD,
        "park/02_tril_mask.ipynb": GOOD,
        "choi.zip": {"Copy of 02_tril_mask (1).ipynb": GOOD},
        "group a/lee.ipynb.txt": GOOD,
        "notes.md": b"to do",
    }
    found = find(lay(tmp_path, files))
    students = ["choi", "group a/lee", "hw_2026_05_kim", "hw_2026_05_lim", "lee", "park"]
    assert [s.student for s in found.submissions] == students
    assert found.problems == ("notes.md: not a notebook, left out",)
    assert all(s.chapter == 2 for s in found.submissions)


def test_a_single_notebook_or_zip_file_will_do_and_nothing_else(tmp_path):
    lay(tmp_path, {"lee.ipynb": GOOD, "class.zip": {"kim.ipynb": GOOD}, "x.txt": b""})
    assert list(who(find(tmp_path / "lee.ipynb"))) == ["lee"]
    assert list(who(find(tmp_path / "class.zip"))) == ["kim"]
    with pytest.raises(ValueError, match="expected a folder, a zip file or a notebook"):
        find(tmp_path / "x.txt")
    with pytest.raises(FileNotFoundError):
        find(tmp_path / "nothing")


def test_the_latest_of_a_student_and_chapter_counts_by_time_attempt_or_suffix(tmp_path):
    names = ["kim_71_905_a.ipynb", "kim_71_905_a-1.ipynb", "kim_71_905_a-10.ipynb"]
    names += ["kim_71_905_a-2.ipynb", "kim_71_904_b-99.ipynb"]
    lay(tmp_path, dict.fromkeys(names, GOOD) | {"kim_71_903_c.ipynb": FIVE})
    (last,) = (s for s in find(tmp_path).submissions if s.chapter == 2 and not s.replaced)
    assert last.file == "kim_71_905_a-10.ipynb"
    assert last.superseded == (names[3], names[1], names[0], names[4])
    for moment, folder in ((2, "ps2"), (1, "ps2-late")):
        path = tmp_path / "n" / "submitted" / "kim" / folder / "hw.ipynb"
        lay(path.parent, {path.name: GOOD})
        os.utime(path, (moment, moment))
    (last, first) = find(tmp_path / "n").submissions
    assert (last.file, first.replaced) == ("submitted/kim/ps2/hw.ipynb", True)


def test_what_cannot_be_read_replaces_nothing(tmp_path):
    lay(tmp_path, {"kim_71_905_a.ipynb": GOOD, "kim_71_906_a-1.ipynb": GOOD[:500]})
    found = {s.file: s for s in find(tmp_path).submissions}
    assert not any(s.replaced for s in found.values())
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
    }
    assert sorted(p for p in found.problems if "a link, not followed" in p) == [
        "file.ipynb: a link, not followed",
        "folder: a link, not followed",
        "z.zip/link.ipynb: a link, not followed",
    ]


def test_paths_that_leave_a_zip_file_are_left_out(tmp_path):
    bad = ["../up.ipynb", "/etc/abs.ipynb", "a/../../b.ipynb", "..\\win.ipynb", "C:\\c.ipynb"]
    lay(tmp_path, {"class.zip": {name: GOOD for name in [*bad, "fine.ipynb"]}})
    found = find(tmp_path / "class.zip")
    assert [s.file for s in found.submissions] == ["fine.ipynb"]
    assert len(found.problems) == len(bad)
    assert all("a path that leaves" in problem for problem in found.problems)
    assert not list(tmp_path.parent.rglob("up.ipynb"))


def test_bombs_are_refused_and_the_rest_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(submissions, "MAX_INNER_UNPACKED", 3 * 10**6)
    monkeypatch.setattr(submissions, "MAX_INNER_ENTRIES", 20)
    nested = {"deep.ipynb": GOOD}
    for _ in range(5):
        nested = {"inner.zip": nested}
    rows = {f"{i}.ipynb": bytes(os.urandom(900_000)) for i in range(5)}
    files = {
        "a_71_9001_bomb.ipynb": GOOD,
        "b_72_9002_ratio.zip": {"02_tril_mask.ipynb": b" " * 15_000_000},
        "c_73_9003_deep.zip": nested,
        "d_74_9004_large.zip": rows,
        "e_75_9005_many.zip": {f"{i}.txt": b"" for i in range(50)} | {"x.ipynb": GOOD},
        "f_76_9006_broken.zip": b"PK\x03\x04 broken",
    }
    found = find(lay(tmp_path, {"class.zip": files}))
    statuses = {}
    for submission in found.submissions:
        statuses.setdefault(submission.student, []).append(submission.status)
    assert statuses["a_71"] == [""]
    assert "zip bomb" in statuses["b_72"][0]
    assert "too many zip files" in statuses["c_73"][0]
    assert sum("too much in all" in status for status in statuses["d_74"]) == 2
    assert any("entries, at most" in problem for problem in found.problems)
    assert "damaged zip file" in statuses["f_76"][0]


def test_a_size_that_lies_and_an_entry_that_is_damaged_are_statuses(tmp_path):
    data = bytearray(zipped({"kim_71_9001_a.ipynb": GOOD, "lee_72_9002_a.ipynb": GOOD}))
    data[60:70] = b"\xff" * 10  # inside the first entry's bytes
    where = data.rindex(b"PK\x01\x02")  # the directory's line on the second entry
    data[where + 24 : where + 28] = struct.pack("<I", 10)  # says that it is 10 bytes long
    (tmp_path / "class.zip").write_bytes(bytes(data))
    found = find(tmp_path)
    assert [bool(s.status) for s in found.submissions] == [True, True]


def test_an_encrypted_entry_is_a_status(tmp_path):
    data = bytearray(zipped({"kim_71_9001_a.ipynb": GOOD}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    (tmp_path / "class.zip").write_bytes(bytes(data))
    (one,) = find(tmp_path).submissions
    assert one.status == "it is encrypted"


def test_names_in_old_encodings_are_read_and_no_name_passes_for_another(tmp_path):
    info = zipfile.ZipInfo("x" * 18)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr(info, GOOD)
    name = "José_é 李.ipynb".encode()
    assert len(name) == 18
    (tmp_path / "utf.zip").write_bytes(stream.getvalue().replace(b"x" * 18, name))
    (tmp_path / "lee.ipynb").write_bytes(GOOD)
    (tmp_path / "l\u200bee.ipynb").write_bytes(GOOD)
    (tmp_path / "gnp.\u202ebpyni.ipynb").write_bytes(GOOD)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xfcller.ipynb")).write_bytes(GOOD)
    found = find(tmp_path)
    names = [s.student for s in found.submissions]
    assert len(set(names)) == 5 and "lee" in names and "utf/José_é 李" in names
    assert any(name.startswith("müller") for name in names)
    for text in (*names, *(s.file for s in found.submissions)):
        text.encode()
        assert not set(text) & set("\u200b\u202e\n\r\t")


def test_an_uploaded_name_cannot_speak_for_another_student(tmp_path):
    files = {
        f"Mal Lory_66{MOODLE}Vic Tim_77{MOODLE}x.ipynb": GOOD,
        f"Mal Lory_66{MOODLE}/submitted/victim/ps2/y.ipynb": FIVE,
        f"Mal Lory_66{MOODLE}/victim_77_9001_z.zip": {f"Vic Tim_77{MOODLE}/a.ipynb": GOOD},
    }
    assert who(find(lay(tmp_path, files))) == {"Mal Lory_66": {"moodle": "66"}}


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
    found = read_cells(json.dumps({"cells": cells}).encode())
    nothing = Cell(is_code=False, source="")
    code = [Cell(is_code=True, source=""), Cell(is_code=True, source="a = 1\nb = '?'")]
    assert found == (nothing, nothing, *code)
    assert chapter_of(found, bank()) is None


def test_the_chapter_comes_from_metadata_else_names_else_titles():
    def chapter(notebook):
        return chapter_of(read_cells(as_file(notebook)), bank())

    good = filled(2, {})
    assert chapter(good) == 2
    assert chapter(stripped(good)) == 2
    assert chapter(stripped(filled(5, {}))) == 5
    cell = {"cell_type": "code", "source": "MATRIX = 1\ncached_outputs = 2"}
    assert chapter({"cells": [cell]}) == 2
    title = {"cell_type": "markdown", "source": "## 5.1 One token at a time"}
    assert chapter({"cells": [cell, title]}) == 5
    assert chapter({"cells": [{"cell_type": "code", "source": "x = 1"}]}) is None
