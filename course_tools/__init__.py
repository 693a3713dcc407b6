"""What authors and teachers run: the command `course` and what stands behind it.

- `cli`, `project`, `links`: the command, where the repository is, links to a JupyterHub.
- `build`: notebooks, exercises and recordings from their sources.
- `exercise_bank`: solutions, hidden checks, misconceptions, and small changes to solutions.
- `sandbox`: where a stranger's code runs; `sandbox.inside` is what runs in there.
- `grading`: from what a class handed in to marks and feedback pages.
- `release`: the tree that students get.

It imports `course_lib`, never the other way round.
"""
