"""Contract tests for anybody's task, basis or method: what DESIGN sections 2 and 5 promise, measured.

1. `find` turns what the user names into objects; `basisbench.checks.check` is the door.
2. A check (`finding.Check`) measures one property on a stage: prompts, activations and freshly built bases of one model
   (`stage`). It gives the measured value, its bound, and whether it holds; an exception is a failure too.
3. `basis_functions`, `basis_parts` and `basis_circuits` check a basis by itself, its optional promises, and inside the
   model; `method` and `task` check these. `snapshots` compares model, code and settings before and after.

What cannot be checked from inside one process: code that tells that it is being checked, and acts otherwise in a run.
Records are compared with a second run for that.
"""
