"""Links that open the course on a JupyterHub (the command `course link`; used by teachers).

nbgitpuller, an extension of the hub's servers, follows such a link: it copies the published
repository into the student's home, or brings the copy up to date without touching what the
student wrote, and opens a notebook. The address is that of nbgitpuller's documentation,
https://nbgitpuller.readthedocs.io/en/latest/topic/url-options.html
"""

import re
from urllib.parse import quote, urlencode, urlsplit

from course_tools.project import Project

#: What opens a notebook, or a folder, in each application; relative to a student's server.
APPS = {"lab": ("lab/tree", "lab/tree"), "classic": ("notebooks", "tree")}
#: What a link opens that names no notebook.
FOLDER = "notebooks"


def pull_link(
    hub: str, repo: str, path: str, *, app: str = "lab", branch: str | None = None
) -> str:
    """The link that pulls a repository into a student's home and opens a file of it.

    Args:
        hub: address of the hub, such as https://hub.example.edu or https://example.edu/jupyter.
        repo: what `git clone` is given.
        path: of the notebook or folder to open, within the repository.
        app: "lab" (JupyterLab) or "classic" (the single-document page of Jupyter Notebook).
        branch: to pull; the repository's default branch if not given.

    Returns:
        The link.

    Raises:
        ValueError: if an argument is not of its form; the message names it.
    """
    if app not in APPS:
        raise ValueError(f"app: expected one of {', '.join(APPS)}; got {app!r}")
    name = repo.rstrip("/").rpartition("/")[2]
    if not name:
        raise ValueError(
            f"repo: expected an address that ends in the repository's name; got {repo!r}"
        )
    if branch is not None and not _may_be_branch(branch):
        raise ValueError(f"branch: expected the name of a branch; got {branch!r}")
    opener = APPS[app][0 if path.endswith(".ipynb") else 1]
    # Quoted twice: as the address that is opened in the end, and as a value in this one.
    query = {"repo": repo.rstrip("/"), "urlpath": f"{opener}/{quote(f'{name}/{path}')}"}
    if branch is not None:
        query["branch"] = branch
    return f"{_hub(hub)}/hub/user-redirect/git-pull?{urlencode(query, quote_via=quote, safe='')}"


def course_link(
    project: Project,
    hub: str,
    notebook: str | None = None,
    *,
    app: str = "lab",
    branch: str | None = None,
) -> str:
    """The link to one notebook of the published course, or to its folder of chapters.

    Args:
        project: the teachers' working copy; it says where the course is published.
        hub: address of the hub.
        notebook: its path in the student tree, such as "exercises/05_kv_cache.ipynb".
        app: "lab" or "classic".
        branch: to pull; the repository's default branch if not given.

    Returns:
        The link.

    Raises:
        ValueError: if the course has no such notebook, or an argument is not of its form.
    """
    known = notebooks(project)
    if notebook is not None and notebook not in known:
        raise ValueError(f"notebook: expected one of {', '.join(known)}; got {notebook!r}")
    if branch == project.tag:
        raise ValueError(
            f"branch: {branch} is a tag, from which nbgitpuller copies once and then cannot "
            "update; name a branch, or leave it out"
        )
    return pull_link(hub, project.address, notebook or FOLDER, app=app, branch=branch)


def course_table(project: Project, hub: str, *, app: str = "lab", branch: str | None = None) -> str:
    """A Markdown table of the links to all chapters and exercises, for a learning platform.

    Args:
        project: the teachers' working copy.
        hub: address of the hub.
        app: "lab" or "classic".
        branch: to pull; the repository's default branch if not given.

    Returns:
        The table, a row a chapter.

    Raises:
        ValueError: if an argument is not of its form.
    """

    def cell(label: str, path: str) -> str:
        return f"[{label}]({course_link(project, hub, path, app=app, branch=branch)})"

    rows = ["| | Chapter | Exercises |", "|---|---|---|"]
    known = notebooks(project)
    for chapter in project.chapters:
        texts = [cell(n.title, f"{n.page}.ipynb") for n in (chapter, *project.deeper(chapter))]
        tasks = f"exercises/{chapter.name}.ipynb"
        exercises = cell("exercises", tasks) if tasks in known else ""
        rows.append(f"| {chapter.number} | {', '.join(texts)} | {exercises} |")
    return "\n".join(rows)


def notebooks(project: Project) -> list[str]:
    """The paths of the student tree's notebooks, chapters first.

    Args:
        project: the teachers' working copy.
    """
    sources = {file.stem for file in (project.root / "solutions").glob("[0-9][0-9]_*.py")}
    names = [chapter.name for chapter in project.chapters]
    chapters = [f"{notebook.page}.ipynb" for notebook in project.notebooks]
    return chapters + [f"exercises/{name}.ipynb" for name in names if name in sources]


# --- parts ---------------------------------------------------------------------------------------


def _hub(address: str) -> str:
    """The hub's address without a slash at its end."""
    wrong = ValueError(
        "hub: expected the address of a JupyterHub without /hub, such as "
        f"https://hub.example.edu; got {address!r}"
    )
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018 - reading it checks it
    except ValueError:
        raise wrong from None
    host = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d+)?", parts.netloc)
    path = re.fullmatch(r"[\w.~/%-]*", parts.path)
    inside = {"hub", "user"} & set(parts.path.split("/"))
    plain = not (parts.query or parts.fragment or address.endswith(("?", "#")))
    if parts.scheme not in ("http", "https") or not host or not path or inside or not plain:
        raise wrong
    return address.rstrip("/")


def _may_be_branch(name: str) -> bool:
    """What `git check-ref-format --branch` would say, near enough to catch a slip."""
    if not name or name.startswith("-") or name.endswith(("/", ".", ".lock")):
        return False
    return not re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|//|@\{|(^|/)\.", name)
